# Stages that log, skip what is done, redo what is stale and run jobs. Sourced by a recipe after its options.

log() {
    local file=${BASH_SOURCE[1]##*/}
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${file}:${BASH_LINENO[0]}) $*"
}

# stage N TEXT [EARLIER...]: true when stage N is to run; says so. Of the stages EARLIER the files must be there that the
# recipe's function left_by tells; it sees the recipe's variables, but for number, title, earlier and file.
stage() {
    local number=$1 title=$2 earlier file; shift 2
    [ "${stage}" -le "${number}" ] && [ "${stop_stage}" -ge "${number}" ] || return 1
    for earlier in "$@"; do
        for file in $(left_by "${earlier}"); do
            [ -e "${file}" ] || mistake "${file} is missing; run stage ${earlier} first"
        done
    done
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${0##*/}:${BASH_LINENO[0]}) Stage ${number}: ${title}"
}

# mistake TEXT: end the script for what its user did wrong.
mistake() {
    echo "$0: error: $*" >&2
    exit 2
}

# one_of NAME CHOICE...: the option NAME must have one of the values.
one_of() {
    local name=$1 choice; shift
    for choice in "$@"; do [ "${!name}" != "${choice}" ] || return 0; done
    mistake "--${name} is '${!name}', expected one of: $*"
}

# existing NAME...: the files or folders that the options NAME give must be there; an empty option gives none.
existing() {
    local name
    for name in "$@"; do
        [ -z "${!name}" ] || [ -e "${!name}" ] || mistake "--${name} ${!name} does not exist; correct the path"
    done
}

# within NAME LEAST MOST: the option NAME must be a whole number in this range, if it is given.
within() {
    [ -z "${!1}" ] && return
    [[ ${!1} =~ ^[0-9]{1,6}$ ]] && [ "${!1}" -ge "$2" ] && [ "${!1}" -le "$3" ] && return
    mistake "--$1 is '${!1}', expected a whole number from $2 to $3"
}

# each_once WORD...: the words without repetitions.
each_once() {
    local word told=
    for word in "$@"; do [[ "${told} " == *" ${word} "* ]] || told+=" ${word}"; done
    echo ${told}
}

# state OPTIONS [FILE...]: what a marker holds: the OPTIONS and a hash of the FILEs, to which a missing one belongs, too.
# For large ones and for tables of archives, which may change below them, size and time stand.
state() {
    local options=$1 file; shift
    echo "${options} $(for file in "$@"; do
        if [ ! -f "${file}" ]; then echo missing
        elif [[ ${file} == *.scp || $(stat -L -c %s "${file}") -gt 67108864 ]]; then stat -L -c '%s %.9Y' "${file}"
        else md5sum < "${file}"; fi
    done | md5sum | cut -d ' ' -f 1)"
}

# finished MARKER STATE OUTPUT...: true when MARKER was left with the same STATE, as of `state`, and every OUTPUT is
# still there. Otherwise the marker goes, as what it stood for is about to change.
finished() {
    local marker=$1 state=$2 output stale=; shift 2
    [ -f "${marker}" ] && [ "$(cat "${marker}")" == "${state}" ] || stale=yes
    for output in "$@"; do [ -f "${output}" ] || stale=yes; done
    [ -z "${stale}" ] || { rm -f "${marker}"; return 1; }
    echo "    already done: ${marker%/.done*} (delete ${marker} to do it again)"
}

# finish MARKER STATE: leave the marker that `finished` reads.
finish() {
    { mkdir -p "$(dirname "$1")" && printf '%s\n' "$2" > "$1.tmp" && mv "$1.tmp" "$1"; } 2>/dev/null && return
    rm -f "$1.tmp"
    mistake "$1 cannot be written; free some space and run it again"
}

# corpus_name CORPUS [PATH]: what tells a corpus from another, whichever way its folder PATH is written.
corpus_name() { echo "$1 $([ -z "${2:-}" ] || realpath "$2" 2>/dev/null || echo "$2")"; }

# one_corpus WORKDIR CORPUS [PATH]: refuse to mix two corpora in one work folder, or two runs; stage 0 leaves the name of
# its corpus in WORKDIR/data/.corpus. Jobs take paths as bare words, in which JOB stands for the job's number.
one_corpus() {
    local folder=$1/data name held LC_ALL=C
    [[ $1 =~ ^[A-Za-z0-9._/][A-Za-z0-9._/+=:@%~#-]*$ && ! $1 =~ (^|[^A-Za-z0-9_])JOB([^A-Za-z0-9_]|$) ]] \
        || mistake "--workdir is $(quoted "$1"), expected letters, digits, ._/+=:@%~#- and no word JOB; give another"
    mkdir -p "${folder}" 2>/dev/null && [ -w "${folder}" ] && touch "$1/.lock" 2>/dev/null \
        || mistake "the folder ${folder} cannot be made or written to; give another --workdir"
    alone_in "$1"
    [ -f "${folder}/.corpus" ] || return 0
    name=$(corpus_name "${@:2}"); held=$(cat "${folder}/.corpus")
    [ "$(corpus_name "${held%% *}" "${held#* }")" == "${name}" ] && return
    mistake "${folder} holds the corpus '${held}', not '${name}'; give --workdir for another one"
}

# alone_in WORKDIR: take its lock until this script ends, or refuse. Programs that outlive a killed script keep it.
alone_in() {
    command -v flock > /dev/null || return 0
    exec {_lock}>> "$1/.lock"
    flock --nonblock --conflict-exit-code 9 ${_lock} || [ $? -ne 9 ] \
        || mistake "another run.sh works in --workdir $1; wait until it has ended, or give another one"
    trap 'flock --unlock ${_lock}' EXIT   # not when the last program that inherited it ends
}

# quoted WORD...: the words as a shell reads them back.
quoted() { printf '%q ' "$@"; }

_jobs=()

# job MARKER STATE COMMAND: a job for the next `run_jobs`, a line of shell; it leaves MARKER, if that is not empty, with
# STATE as `finish` does, so that jobs that ended well stay done when others of their array fail.
job() { _jobs+=("$(quoted "$1" "$2" "$3")"); }

# run_jobs NAME [RUNNER...]: run all jobs given since the last time, as an array with the logs NAME.JOB.log, and show what
# they said; without a RUNNER one after the other, here. NAME.jobs is their list.
run_jobs() {
    local name=$1 number; shift
    [ ${#_jobs[@]} -gt 0 ] || return 0
    mkdir -p "$(dirname "${name}")"
    printf '%s\n' "${_jobs[@]}" > "${name}.jobs"
    local count=${#_jobs[@]}
    _jobs=()
    if [ $# -eq 0 ]; then
        for ((number = 1; number <= count; number++)); do utils/job.sh "${name}.jobs" ${number} || return; done
        return
    fi
    echo "    ${count} jobs: ${name}.JOB.log"
    "$@" JOB=1:${count} "${name}.JOB.log" utils/job.sh "${name}.jobs" JOB || return
    for ((number = 1; number <= count; number++)); do sed '/^#/d' "${name}.${number}.log"; done
}
