#!/usr/bin/env bash
# Table 1 of the paper: a language model of the Penn Treebank, compressed, fine-tuned, scored and timed.
#   ./run.sh                                   # a few hundred sentences of a small grammar: minutes on a laptop
#   ./run.sh --corpus ptb                      # the three published files, downloaded (2x650 LSTM: a GPU and hours)
#   ./run.sh --data /corpora/ptb               # an existing copy of the three files
set -euo pipefail

# where to start and stop; a finished stage is skipped, an unfinished one continues
stage=0             # 0 text  1 vocabulary  2 LSTM training  3 compress
stop_stage=7        # 4 fine-tune  5 perplexity  6 export and speed  7 table
nj=$(nproc)         # parallel jobs: matrices compressed at the same time
ngpu=0              # GPUs for training (ESPnet's DDP when more than one)
python=python3      # the interpreter that runs every program
workdir=.           # where data/, exp/ and downloads/ are made

# corpus
corpus=mini         # mini | ptb
data=               # a folder with ptb.{train,valid,test}.txt or {train,valid,test}.txt: corpus ptb without download
mini_size="1200 150 150"  # corpus mini: training, validation and test sentences
min_count=1         # how often a word must come in the training text to be in the vocabulary

# models; an empty config is conf/ptb/NAME.yaml, or conf/ptb/mini/NAME.yaml for the mini corpus
lm_config=
finetune_config=
compress_config=conf/compress.yaml
methods="svd odl prune dirnet small"  # entries of compress_config; the dense model is fine-tuned, too, as a control
size=6.7x           # of the recurrent weights: 6.7x | 1.0M parameters | 4MB stored; several: "2x 6.7x"
calibration_sentences=400  # training sentences for methods that use data
reconstruct=0       # training sentences from which layers learn to give what dense ones give, before fine-tuning; 0: none
seed=0

command="$0$([ $# -eq 0 ] || printf ' %q' "$@")"
. "$(dirname "$0")/utils/parse_options.sh"
[ -f path.sh ] || { echo "$0: error: run it in its own folder, $(dirname "$0")" >&2; exit 2; }
. utils/stage.sh
. ./path.sh
. ./cmd.sh
[ $# -eq 0 ] || { echo "$0: error: unexpected argument '$1'; options are --name value, see $0 --help" >&2; exit 1; }

[ -z "${data}" ] || corpus=ptb
text=${workdir}/data; exp=${workdir}/exp; downloads=${workdir}/downloads
conf=conf/ptb; [ "${corpus}" != mini ] || conf=conf/ptb/mini
lm_config=${lm_config:-${conf}/train_lm.yaml}
finetune_config=${finetune_config:-${conf}/finetune.yaml}
existing lm_config finetune_config compress_config
one_of corpus mini ptb; within stage 0 7; within stop_stage 0 7; within min_count 1 999999
within nj 1 9999; within calibration_sentences 1 999999; within reconstruct 0 999999
[ -z "${cuda_cmd}" ] || cuda_cmd+=" --gpu ${ngpu}"
[ -z "${data}" ] || [ -d "${data}" ] || mistake "--data ${data} is no folder; give the one with the three text files"
[ "${stage}" -le "${stop_stage}" ] || mistake "--stage ${stage} comes after --stop_stage ${stop_stage}; nothing to run"
${python} -c 'from importlib.util import find_spec; exit(not find_spec("torch"))' 2>/dev/null \
    || mistake "--python '${python}' is no Python with the project's packages; run \`make setup\` in ${root} first"
if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then   # before the hours of training
    ${python} -m dirnet.compression.request --config "${compress_config}" --methods "${methods}" --sizes "${size}" \
        --espnet true --read "${lm_config}" "${finetune_config}"
fi
one_corpus "${workdir}" "${corpus}" "${data}"

methods=$(each_once ${methods}); size=$(each_once ${size})
compressed=; small=   # the rows of the table: the dense model, its control, then these
for s in ${size}; do
    for m in ${methods}; do [ "${m}" == small ] && small+=" small_${s}" || compressed+=" ${m}_${s}"; done
done
models="lm dense_1x${compressed}${small}"

left_by() {  # left_by STAGE: what later stages read of it
    case $1 in
        0) echo "${text}/.corpus" ;;
        1) echo "${text}/tokens.txt" ;;
        2) echo "${exp}/lm/model.pth" ;;
        3) for m in ${compressed}; do echo "${exp}/${m}/start/model.pth"; done ;;
        4) for m in ${models}; do echo "${exp}/${m}/model.pth"; done ;;
    esac
}

if stage 0 "corpus ${corpus}"; then
    if [ "${corpus}" == ptb ]; then
        [ -n "${data}" ] || ${python} local/ptb_download.py --out "${downloads}"
        ${python} local/ptb_data.py text --source "${data:-${downloads}}" --out "${text}"
    else
        ${python} local/ptb_data.py text --mini_size "${mini_size}" --seed "${seed}" --out "${text}"
    fi
    finish "${text}/.corpus" "$(corpus_name "${corpus}" "${data}")"
fi

if stage 1 "vocabulary" 0; then
    ${python} local/ptb_data.py tokens --min_count "${min_count}" --out "${text}"
fi

in_turn() {  # in_turn NAME [RUNNER...] < LIST: programs as one job and process, as importing ESPnet takes 12-17 s
    local list=${exp}/log/$1.list; mkdir -p "${exp}/log"; cat > "${list}"
    job "" "" "$(quoted ${python} -m dirnet.espnet.in_turn "${list}")"
    run_jobs "${exp}/log/$1" "${@:2}"
}
training() { quoted dirnet.espnet.lm_train --data "${text}" --ngpu "${ngpu}" --seed "${seed}" "$@"; echo; }

if stage 2 "LSTM training" 1; then
    training --config "${lm_config}" --exp "${exp}/lm" | in_turn lm ${cuda_cmd}
fi

if stage 3 "compression of the recurrent layers to ${size}: ${methods}" 2; then
    for model in ${compressed}; do
        quoted dirnet.espnet.compress --espnet "${exp}/lm/config.yaml,${exp}/lm/model.pth" --of recurrent \
            --size "${model##*_}" --method "${model%_*}" --config "${compress_config}" --data "${text}/train/text" \
            --data_utts "${calibration_sentences}" --reconstruct "${reconstruct}" --seed "${seed}" --nj "${job_nj:-${nj}}" \
            --out "${exp}/${model}/start" --next_steps false; echo
    done | in_turn solve ${solve_cmd}
fi

if stage 4 "fine-tuning" 2 3; then
    folders=${exp}/dense_1x; starts=${exp}/lm
    for model in ${compressed} ${small}; do folders+=" ${exp}/${model}"; starts+=" ${exp}/${model}/start"; done
    {
        for model in ${small}; do   # no approximation: fewer units, first trained as the dense model was
            training --config "${lm_config}" --exp "${exp}/${model}/start" --smaller "${model##*_}"
        done
        training --config "${finetune_config}" --exp ${folders} --init ${starts}
    } | in_turn finetune ${cuda_cmd}
fi

if stage 5 "perplexity" 4; then
    folders=; for model in ${models}; do folders+=" ${exp}/${model}"; done
    for model in ${compressed} ${small}; do folders+=" ${exp}/${model}/start"; done   # before fine-tuning
    echo "dirnet.espnet.perplexity --data ${text}/test --exp ${folders}" | in_turn perplexity ${cuda_cmd}
fi

if stage 6 "ExecuTorch export, words per second" 4; then
    folders=; for model in ${models}; do folders+=" ${exp}/${model}"; done
    job "" "" "$(quoted ${python} -m dirnet.deploy.language_program --models ${folders} --words "${text}/test/text")"
    run_jobs "${exp}/log/speed" ${rtf_cmd}
fi

if stage 7 "table" 4; then
    ${python} -m dirnet.report.perplexity --exp "${exp}" --models ${models} --data "${text}" \
        --command "${command}" --out "${exp}/report"
fi
