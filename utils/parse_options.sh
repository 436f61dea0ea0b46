#!/usr/bin/env bash
# Command-line options for a script, in Kaldi's form. Source it after giving every option its default value:
#
#   nj=4                  # parallel jobs
#   . utils/parse_options.sh
#
# Then `--nj 8` sets nj, `--skip-train true` sets skip_train, `--config FILE` sources FILE, and what is left in "$@" are
# the arguments. An option without a variable is an error, exit status 1. A variable that is true or false takes only
# these, one that is a whole number only such; another value, and a name in FILE that is no option, are exit status 2.
# `--help` prints $help_message or, where the script has none, the comment at its head and its variables with their
# defaults and remarks.

_option_error() {   # STATUS MESSAGE
    echo "$0: error: $2; see $0 --help" >&2
    exit "$1"
}

_print_help() {
    if [ -n "${help_message:-}" ]; then
        printf '%s\n' "${help_message}"
        return
    fi
    awk '/parse_options\.sh/ { exit }
         NR == 1 && /^#!/ { next }
         /^# ?/ { sub(/^# ?/, ""); print; next }
         /^command=/ { next }   # of the script itself
         /^[a-z][a-z0-9_]*=/ { sub(/=/, " "); print "  --" $0; next }
         /^$/ { print }' "$0"
}

# NAME OLD VALUE SHOWN: whether the option NAME, whose value was OLD, takes VALUE.
_check_value() {
    if [[ $2 =~ ^(true|false)$ ]] && ! [[ $3 =~ ^(true|false)$ ]]; then
        _option_error 2 "$4 is '$3', expected true or false"
    fi
    if [[ $2 =~ ^[0-9]+$ ]] && ! [[ $3 =~ ^[0-9]+$ ]]; then
        _option_error 2 "$4 is '$3', expected a whole number"
    fi
}

_config=
declare -A _old
for ((_i = 1; _i <= $#; _i++)); do   # a config comes first, so that the command line overrides it
    if [ "${!_i}" == --config ] && [ -z "${config+set}" ]; then
        _next=$((_i + 1))
        _config=${!_next:-}
        [ -r "${_config}" ] || _option_error 2 "--config '${_config}' is not a readable file"
        _old=()
        for _name in $(grep -oE '^[a-z][A-Za-z0-9_]*=' "${_config}" | tr -d =); do
            [ -n "${!_name+set}" ] || _option_error 2 "--config '${_config}' sets ${_name}, which is no option"
            _old[${_name}]=${!_name}
        done
        # shellcheck disable=SC1090
        . "${_config}"
        for _name in "${!_old[@]}"; do
            _check_value "${_name}" "${_old[${_name}]}" "${!_name}" "${_name} of --config '${_config}'"
        done
    fi
done

while [ $# -gt 0 ]; do
    case $1 in
        --help|-h) _print_help; exit 0 ;;
        --) shift; break ;;
        --*=*) _option_error 1 "'$1' has the form --name=value, expected --name value" ;;
        --*)
            _name=${1#--}; _name=${_name//-/_}
            [[ ${_name} =~ ^[a-z][A-Za-z0-9_]*$ ]] || _option_error 1 "invalid option '$1'"
            [ $# -ge 2 ] || _option_error 1 "option $1 has no value"
            if [ "${_name}" == config ] && [ -z "${config+set}" ]; then shift 2; continue; fi
            [ -n "${!_name+set}" ] || _option_error 1 "invalid option '$1'"
            _check_value "${_name}" "${!_name}" "$2" "option $1"
            printf -v "${_name}" '%s' "$2"
            shift 2 ;;
        *) break ;;
    esac
done
unset _config _i _next _name _old
true
