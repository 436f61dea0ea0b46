#!/usr/bin/env bash
# Real-time factor of an exported model on an Android phone, over adb.
#   local/android_rtf.sh --runner build/dirnet_runner [--serial SERIAL] [--cluster big] [--out FILE] exp/x/encoder.pte
set -euo pipefail

runner=
serial=
cluster=big
out=
python=${python:-python3}

. utils/parse_options.sh

if [ $# -ne 1 ] || [ -z "${runner}" ]; then
    echo "Usage: $0 --runner dirnet_runner [--serial SERIAL] [--cluster CORES] [--out FILE.json] MODEL.pte" >&2
    exit 1
fi
model=$1
exec "${python}" -m dirnet.deploy.rtf --model "${model}" --device "adb${serial:+:${serial}}" --runner "${runner}" \
    --cluster "${cluster}" --out "${out:-$(dirname "${model}")/rtf_android.json}"
