#!/usr/bin/env bash
# Run the job in line NUMBER of a LIST that `run_jobs` of utils/stage.sh wrote: job.sh LIST NUMBER
set -euo pipefail
. "$(dirname "$0")/stage.sh"
eval "set -- $(sed -n "$2p" "$1")"   # marker, state, command: three quoted words
bash -euo pipefail -c "$3"
[ -z "$1" ] || finish "$1" "$2"
