# Stages that log, skip what is done and redo what is stale. Sourced by a recipe after its options.

log() {
    local file=${BASH_SOURCE[1]##*/}
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${file}:${BASH_LINENO[0]}) $*"
}

# stage N TEXT: true when stage N is to run; says so.
stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] || return 1
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${0##*/}:${BASH_LINENO[0]}) Stage $1: $2"
}

# finished MARKER OPTIONS [INPUT...]: true when MARKER was left with the same OPTIONS after every INPUT changed.
finished() {
    local marker=$1 options=$2 input; shift 2
    [ -f "${marker}" ] && [ "$(cat "${marker}")" == "${options}" ] || return 1
    for input in "$@"; do [ ! "${input}" -nt "${marker}" ] || return 1; done
    echo "    already done: ${marker%/.done*} (delete ${marker} to do it again)"
}

# finish MARKER OPTIONS: leave the marker that `finished` reads.
finish() {
    mkdir -p "$(dirname "$1")"
    printf '%s\n' "$2" > "$1.tmp" && mv "$1.tmp" "$1"
}

# one_corpus DIR NAME: refuse to mix two corpora in one work folder.
one_corpus() {
    mkdir -p "$1"
    [ -f "$1/.corpus" ] || printf '%s\n' "$2" > "$1/.corpus"
    [ "$(cat "$1/.corpus")" == "$2" ] && return
    echo "$0: error: $1 holds the corpus '$(cat "$1/.corpus")', not '$2'; give --workdir for another one" >&2
    exit 2
}
