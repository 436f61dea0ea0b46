#!/usr/bin/env bash
# Decode a set with a model and score it: posteriors, the search in the graph, word and token error rates.
#   utils/decode.sh --model exp/smbr --data data/test --feats dump/mfcc/test/feats.scp --out exp/smbr/decode_test
set -euo pipefail
model=              # folder of a neutral model
data=               # Kaldi data dir with text and its transcripts in tokens
feats=              # its MFCC features
lang=data/lang      # folder of the graph
config=conf/decode.yaml
out=                # folder of the results
nj=1                # processes of the search
units=phones        # the tokens: phones | chars | words | pieces
transcripts=        # their file in the data dir; default: text_UNITS
rate=per            # their error rate: per | cer | ter
python=python3

. utils/parse_options.sh
for name in model data feats out; do
    [ -n "${!name}" ] || { echo "$0: error: --${name} is missing; see $0 --help" >&2; exit 2; }
done
${python} -m dirnet.posteriors --model "${model}" --feats "${feats}" --out "${out}"
${python} -m dirnet.asr.decode --lang "${lang}" --posteriors "${out}/posteriors.scp" --config "${config}" --nj "${nj}" \
    --out "${out}"
echo "$(basename "${model}"), $(basename "${data}"):"
${python} -m dirnet.asr.score --metric wer --ref "${data}/text" --hyp "${out}/text" --out "${out}"
${python} -m dirnet.asr.score --metric "${rate}" --ref "${data}/${transcripts:-text_${units}}" --hyp "${out}/${units}" --out "${out}"
