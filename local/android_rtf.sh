#!/usr/bin/env bash
# Real-time factor of an exported model on an Android phone, over adb.
#   local/android_rtf.sh [--serial SERIAL] [--out exp/x/rtf_android.json] exp/x/encoder.pte
set -euo pipefail

serial=
out=
python=${python:-python3}

. utils/parse_options.sh

if [ $# -ne 1 ]; then
    echo "Usage: $0 [--serial SERIAL] [--out FILE.json] MODEL.pte" >&2
    exit 1
fi
model=$1
exec "${python}" -m dirnet.deploy.rtf --model "${model}" --device "adb${serial:+:${serial}}" \
    --out "${out:-$(dirname "${model}")/rtf_android.json}"
