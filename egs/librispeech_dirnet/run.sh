#!/usr/bin/env bash
# From audio to a phone-ready recogniser and a results table: baseline, compression and peers, decoded and timed.
#   ./run.sh                                        # LibriSpeech, downloaded (960 h: a GPU and days)
#   ./run.sh --librispeech /corpora/LibriSpeech     # an existing tree, also a partial one
#   ./run.sh --corpus kaldi --data_root DIR         # Kaldi data dirs DIR/train, DIR/test and, if there, DIR/dev
#   ./run.sh --corpus mini                          # synthetic speech made on the spot: minutes on a laptop
set -euo pipefail

# where to start and stop; a finished stage is skipped, an unfinished one continues
stage=0             # 0 corpus  1 features  2 lexicon, LM, graph  3 CTC  4 sMBR  5 compress
stop_stage=10       # 6 decode  7 export    8 real-time factor    9 pack 10 report
nj=$(nproc)         # parallel jobs: features, decoding
decode_nj=          # parallel decoding jobs; default: nj
ngpu=0              # GPUs for training (ESPnet's DDP when more than one)
python=python3      # the interpreter that runs every program
workdir=.           # where data/, dump/, exp/ and downloads/ are made

# corpus
corpus=librispeech  # librispeech | kaldi | mini
librispeech=        # an existing LibriSpeech tree (the folder that holds train-clean-100); empty: download
data_root=          # corpus kaldi: the folder that holds train/ and test/
allow_pipe=false    # corpus kaldi: run the commands in a wav.scp
resample=false      # take audio of another sampling rate and resample it
speed_perturb_factors=  # training audio at several speeds: "0.9 1.0 1.1"; empty: as it is
mini_size="400 60 60"  # corpus mini: training, dev and test utterances
mini_text=          # corpus mini: a file of sentences to be read, one a line; empty: a small grammar's

# lexicon and language model
token_type=phn      # phn | char | word | bpe: what the model's outputs stand for
bpe_size=500        # token_type bpe: pieces of sentencepiece
word_size=5000      # token_type word: the most frequent words of the training transcripts
lexicon=            # a lexicon file; empty: the corpus's own, else cmudict
oov=g2p             # words without pronunciation: g2p | spn | error
arpa=               # an ARPA n-gram (plain or .gz); empty: the published one (librispeech) or one estimated here
lm_order=3          # order of the n-gram estimated here
lm_text=            # more sentences for it, one file, one sentence a line

# models; an empty config is conf/NAME.yaml, or, but for decode, conf/mini/NAME.yaml for the mini corpus
mfcc_config=conf/mfcc.conf
ctc_config=
smbr_config=
finetune_config=
decode_config=
compress_config=conf/compress.yaml
smbr_order=2        # order of the phone n-gram over all paths of sMBR; above 2 takes longer
baseline=smbr       # smbr | ctc: the model that is compressed
finetune_objective=ctc  # ctc | smbr: what compressed models are fine-tuned by
methods="dense svd odl prune_gradual dirnet dirnet_b8 dirnet_b8_int8"  # entries of compress_config
size=7.9x           # 7.9x | 1.3M parameters | 2MB stored | rtf=0.001; several: "4.3x 7.9x"
reconstruct=5000    # utterances from which layers learn to give what dense ones give, before fine-tuning; 0: none
cost_model=         # for sizes in rtf, without odl and prune: the cost.json that `dirnet cost` wrote on this host
seed=0

# deployment
chunk=16            # output frames per call of the exported program
device=host         # host | adb | adb:SERIAL
runner=             # device adb: the dirnet_runner built for the phone (README, "On a phone")
cluster=            # device adb: cores of the phone, big (default) | little | all | 4-7

command="$0$([ $# -eq 0 ] || printf ' %q' "$@")"
. "$(dirname "$0")/utils/parse_options.sh"
[ -f path.sh ] || { echo "$0: error: run it in its own folder, $(dirname "$0")" >&2; exit 2; }
. utils/stage.sh
. ./path.sh
. ./cmd.sh
[ $# -eq 0 ] || { echo "$0: error: unexpected argument '$1'; options are --name value, see $0 --help" >&2; exit 1; }

case ${token_type} in   # what sets apart its folders and transcripts, its name in decode_*, its error rate's
    phn)  tokens=;                  units=phones; rate=per ;;
    char) tokens=char;              units=chars;  rate=cer ;;
    word) tokens=word${word_size};  units=words;  rate=ter ;;
    bpe)  tokens=bpe${bpe_size};    units=pieces; rate=ter ;;
    *) one_of token_type phn char word bpe ;;
esac
data=${workdir}/data; dump=${workdir}/dump/mfcc; downloads=${workdir}/downloads
lang=${data}/lang${tokens:+_${tokens}}; transcripts=text_${tokens:-phones}
exp=${workdir}/exp${tokens:+/${tokens}}; jobs=${exp}/log
conf=conf; [ "${corpus}" != mini ] || conf=conf/mini
ctc_config=${ctc_config:-${conf}/train_ctc.yaml}; smbr_config=${smbr_config:-${conf}/train_smbr.yaml}
finetune_config=${finetune_config:-${conf}/finetune.yaml}; decode_config=${decode_config:-conf/decode.yaml}
existing mfcc_config ctc_config smbr_config finetune_config decode_config compress_config cost_model runner \
    librispeech data_root mini_text lexicon arpa lm_text
[ "${corpus}" != librispeech ] || [ -n "${lexicon}${librispeech}" ] || lexicon=${downloads}/librispeech-lexicon.txt
[ "${corpus}" != librispeech ] || [ -n "${arpa}${librispeech}" ] || arpa=${downloads}/3-gram.pruned.1e-7.arpa.gz
[ -z "${cuda_cmd}" ] || cuda_cmd+=" --gpu ${ngpu}"
audio_options="--resample ${resample} --allow_pipe ${allow_pipe}"
one_of corpus librispeech kaldi mini; one_of oov g2p spn error
one_of baseline smbr ctc; one_of finetune_objective ctc smbr
within smbr_order 2 9; within lm_order 1 9; within chunk 1 64; within decode_nj 1 999; within reconstruct 0 999999
within word_size 1 5000; within bpe_size 1 5000; within stage 0 10; within stop_stage 0 10   # tokens.MOST
[[ ${speed_perturb_factors} =~ ^((0\.[5-9][0-9]*|1(\.[0-9]+)?|2(\.0+)?)( |$))*$ ]] \
    || mistake "--speed_perturb_factors is '${speed_perturb_factors}', expected numbers from 0.5 to 2 such as 0.9 1.0 1.1"
[[ "${device} ${runner}" =~ ^(host |adb(:[^ ]+)? .) ]] || mistake "--device is '${device}', expected host, or adb with --runner"
[ -z "${cluster}" ] || [ "${device}" != host ] || mistake "--cluster ${cluster} goes with --device adb; leave it out"
[ "${corpus}" != kaldi ] || [ -n "${data_root}" ] || mistake "--corpus kaldi needs --data_root DIR"
[ "${stage}" -le "${stop_stage}" ] || mistake "--stage ${stage} comes after --stop_stage ${stop_stage}; nothing to run"
${python} -c 'from importlib.util import find_spec; exit(not find_spec("torch"))' 2>/dev/null \
    || mistake "--python '${python}' is no Python with the project's packages; run \`make setup\` in ${root} first"
check=false; [ "${stage}" -gt 5 ] || [ "${stop_stage}" -lt 5 ] || check=true   # before the hours of training
whole=" $(${python} -m dirnet.compression.request --config "${compress_config}" --methods "${methods}" \
    --sizes "${size}" ${cost_model:+--cost_model "${cost_model}"} --check ${check} \
    --read "${ctc_config}" "${smbr_config}" "${finetune_config}" "${decode_config}") "
one_corpus "${workdir}" "${corpus}" "${data_root:-${librispeech}}"

methods=$(each_once ${methods}); size=$(each_once ${size})
models="${baseline}"   # the rows of the table: the baseline and every compressed model, the control once at 1x
for m in ${methods}; do [[ ${whole} != *" ${m} "* ]] || models+=" ${m}_1x"; done
for s in ${size}; do for m in ${methods}; do [[ ${whole} == *" ${m} "* ]] || models+=" ${m}_${s}"; done; done

left_by() {  # left_by STAGE: what later stages read of it
    case $1 in
        1) echo "${dump}/${train}/feats.scp" ;;
        2) echo "${lang}/TLG.fst" ;;
        3) echo "${exp}/ctc/model.json" ;;
        4) [ "${baseline}" == ctc ] || echo "${exp}/smbr/model.json" ;;
        5) for m in ${models}; do echo "${exp}/${m}/model.json"; done ;;
        7) for m in ${models}; do echo "${exp}/${m}/encoder.pte"; done ;;
    esac
}

if stage 0 "corpus ${corpus}"; then
    case ${corpus} in
        librispeech)
            [ -n "${librispeech}" ] || ${python} local/librispeech_download.py --out "${downloads}"
            ${python} local/librispeech_data.py --corpus "${librispeech:-${downloads}/LibriSpeech}" --out "${data}" ;;
        kaldi) ${python} local/kaldi_data.py --data_root "${data_root}" --out "${data}" --allow_pipe "${allow_pipe}" ;;
        mini) ${python} local/mini_make.py --mini_size "${mini_size}" --text "${mini_text}" --seed "${seed}" --nj "${nj}" \
                --out "${data}" --audio "${downloads}/mini" ;;
    esac
    finish "${data}/.corpus" "$(corpus_name "${corpus}" "${data_root:-${librispeech}}")"
fi
[ -f "${data}/test_sets" ] || mistake "${data}/test_sets is missing; run stage 0 first"
test_sets=$(tr '\n' ' ' < "${data}/test_sets")
[ -n "${test_sets// }" ] || log "no test set in this corpus: stages 6 to 10 have nothing to score"
train=train; [ -z "${speed_perturb_factors}" ] || train=train_sp
sets="${train} dev ${test_sets}"
[ -n "${lexicon}" ] || [ ! -f "${data}/local/dict/lexicon.txt" ] || lexicon=${data}/local/dict/lexicon.txt

if stage 1 "data dirs and MFCC features"; then
    [ ${train} == train ] || ${python} utils/perturb_data_dir_speed.py "${data}"/train{,_sp} --factors "${speed_perturb_factors}"
    for set in ${sets}; do
        ${python} utils/fix_data_dir.py "${data}/${set}"
        ${python} utils/validate_data_dir.py "${data}/${set}" ${audio_options}
        ${python} utils/make_mfcc.py "${data}/${set}" "${dump}/${set}" --cmd "${train_cmd}" --nj "${nj}" \
            --config "${mfcc_config}" ${audio_options}
    done
fi

if stage 2 "lexicon, language model, decoding graph"; then
    inputs=("${arpa}" "${lexicon}" "${lm_text}"); outputs=("${lang}"/{TLG.fst,{lexicon,tokens,words}.txt,lang.json})
    for set in ${sets}; do inputs+=("${data}/${set}/text"); outputs+=("${data}/${set}/${transcripts}"); done
    state=$(state "lexicon=${lexicon} oov=${oov} arpa=${arpa} order=${lm_order} text=${lm_text}" "${inputs[@]}")
    finished "${lang}/.done" "${state}" "${outputs[@]}" || {
        ${python} -m dirnet.asr.lexicon --data "${data}" --sets ${sets} --lang "${lang}" --lexicon "${lexicon}" \
            --oov "${oov}" --arpa "${arpa}" --lm_text "${lm_text}" --token_type "${token_type}" \
            --bpe_size "${bpe_size}" --word_size "${word_size}" --transcripts ${transcripts}
        if [ -z "${arpa}" ]; then
            ${python} -m dirnet.asr.ngram --text "${data}/train/text" --lm_text "${lm_text}" --order "${lm_order}" \
                --lexicon "${lang}/lexicon.txt" --vocab "${lexicon}" --dev "${data}/dev/text" \
                --out "${lang}/lm.arpa"
        fi
        ${python} -m dirnet.asr.graph --lang "${lang}" --arpa "${arpa:-${lang}/lm.arpa}"
        finish "${lang}/.done" "${state}"
    }
fi

order="--smbr_order ${smbr_order}"
training() {  # training CONFIG EXP [OPTION...]: the command that trains one model; a finished one is left alone
    local config=$1 folder=$2; shift 2
    quoted ${python} -m dirnet.espnet.train --config "${config}" --exp "${folder}" --data "${data}" --dump "${dump}" \
        --train ${train} --lang "${lang}" --transcripts ${transcripts} --mfcc_config "${mfcc_config}" \
        --ngpu "${ngpu}" --seed "${seed}" "$@"
}

if stage 3 "CTC training" 1 2; then
    job "" "" "$(training "${ctc_config}" "${exp}/ctc")"
    run_jobs "${jobs}/ctc" ${cuda_cmd}
fi

if stage 4 "sMBR training" 3; then
    [ "${baseline}" == smbr ] || log "skipped: --baseline ctc"
    [ "${baseline}" != smbr ] || job "" "" "$(training "${smbr_config}" "${exp}/smbr" --init "${exp}/ctc" ${order})"
    run_jobs "${jobs}/smbr" ${cuda_cmd}
fi

if stage 5 "compression to ${size}: ${methods}" 1 4; then
    for model in ${models#"${baseline}"}; do
        job "" "" "$(quoted ${python} -m dirnet.compress_model --model "${exp}/${baseline}" --size "${model##*_}" \
            --method "${model%_*}" --config "${compress_config}" --calibration "${dump}/${train}/feats.scp" \
            --reconstruct "${reconstruct}" --seed "${seed}" --nj "${job_nj:-${nj}}" \
            ${cost_model:+--cost_model "${cost_model}"} --out "${exp}/${model}/start")"
    done
    run_jobs "${jobs}/solve" ${solve_cmd}
    objective=(); [ "${finetune_objective}" == ctc ] || objective=(--objective "${smbr_config}" ${order})
    for model in ${models#"${baseline}"}; do
        folder=${exp}/${model}; start=${folder}/start; steps=
        if grep -q '"solver": "small"' "${start}/model.json"; then   # a shape only: the baseline's training first
            steps+="$(training "${ctc_config}" "${folder}/ctc" --shape "${start}") && "; start=${folder}/ctc
            [ "${baseline}" == ctc ] || { start=${folder}/smbr
                steps+="$(training "${smbr_config}" "${start}" --init "${folder}/ctc" ${order}) && "; }
        fi
        steps+="$(training "${finetune_config}" "${folder}" --init "${start}" --dense "${exp}/${baseline}" "${objective[@]}")"
        job "" "" "${steps}"
    done
    run_jobs "${jobs}/finetune" ${cuda_cmd}
fi

if stage 6 "decoding and scoring" 2 4 5; then
    for model in ${models}; do
        for set in ${test_sets}; do
            folder=${exp}/${model}/decode_${set}
            state=$(state "" "${decode_config}" "${exp}/${model}/model.json" "${lang}"/{TLG.fst,words.txt} \
                "${dump}/${set}/feats.scp" "${data}/${set}"/{text,"${transcripts}"})
            finished "${folder}/.done" "${state}" "${folder}"/{wer,"${rate}"}.json && continue
            job "${folder}/.done" "${state}" "$(quoted utils/decode.sh --python "${python}" --model "${exp}/${model}" \
                --data "${data}/${set}" --feats "${dump}/${set}/feats.scp" --lang "${lang}" \
                --nj "${decode_nj:-${job_nj:-${nj}}}" --config "${decode_config}" --units "${units}" --rate "${rate}" \
                --transcripts ${transcripts} --out "${folder}")"
        done
    done
    run_jobs "${jobs}/decode" ${decode_cmd}
fi

# backend_of MODEL: our operators for a compressed model, XNNPACK for a dense one
backend_of() { grep -qs '"compression": null' "${exp}/$1/model.json" && echo xnnpack || echo dirnet; }
# exported MODEL, packed FOLDER: the state of what stages 7 and 9 read
exported() { state "$(backend_of "$1") ${chunk}" "${exp}/$1/model.json"; }
packed() { state "" "$1"/{model.json,rtf.json,decode_*/[cptw]er.json} "${lang}"/{lexicon,tokens}.txt; }
if stage 7 "ExecuTorch export" 4 5; then
    written=; programs=; for model in ${models}; do
        backend=$(backend_of "${model}")
        finished "${exp}/${model}/.done.export" "$(exported "${model}")" "${exp}/${model}/encoder.pte" && continue
        ${python} -m dirnet.deploy.export --model "${exp}/${model}" --backend "${backend}" \
            --chunk "$([ ${backend} == xnnpack ] && echo 1 || echo "${chunk}")" --out "${exp}/${model}/encoder.pte"
        written+=" ${model}"; programs+=" ${exp}/${model}/encoder.pte"
    done
    [ -z "${written}" ] || ${python} -m dirnet.deploy.verify ${programs}
    for model in ${written}; do finish "${exp}/${model}/.done.export" "$(exported "${model}")"; done
fi

if stage 8 "real-time factor on ${device}" 7; then
    options=(--device "${device}" ${runner:+--runner "${runner}"} ${cluster:+--cluster "${cluster}"})
    [ "${device}" == host ] || rtf_cmd=   # a phone hangs on this machine
    others=; for model in ${models#"${baseline}"}; do others+=" ${exp}/${model}"; done
    groups=("${others}")   # here in turns, as jobs side by side would slow each other; on a cluster one job a model
    [ -z "${rtf_cmd}" ] || [ -z "${others}" ] || read -ra groups <<< "${others}"
    for folders in "${groups[@]}"; do
        job "" "" "$(quoted ${python} -m dirnet.deploy.rtf --compare "${exp}/${baseline}" ${folders} "${options[@]}")"
    done
    run_jobs "${jobs}/rtf" ${rtf_cmd}
fi

if stage 9 "packages for the ESPnet model zoo" 4 5; then
    folders=; for model in ${models}; do folder=${exp}/${model}
        finished "${folder}/.done.pack" "$(packed "${folder}")" "${folder}/model.zip" || folders+=" ${folder}"
    done
    case ${corpus} in librispeech) dataset=librispeech_asr ;; mini) dataset="synthetic speech" ;; *) dataset= ;; esac
    [ -z "${folders}" ] || ${python} -m dirnet.espnet.pack --exp ${folders} --lang "${lang}" ${dataset:+--dataset "${dataset}"}
    for folder in ${folders}; do finish "${folder}/.done.pack" "$(packed "${folder}")"; done
fi

if stage 10 "report" 4 5; then
    [ -z "${test_sets// }" ] || ${python} -m dirnet.report.page --exp "${exp}" --models ${models} \
        --test_set ${test_sets} --data "${data}" --command "${command}" --out "${exp}/report"
fi
