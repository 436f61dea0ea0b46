"""Tiny models of ESPnet's stock classes with random weights, and a few seconds of audio with text."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["TEN", "NET", "TEEN", "NEON", "TONE"]
FRONTEND = {"fs": 16000, "n_fft": 128, "win_length": 128, "hop_length": 64, "n_mels": 8}
BLSTMP = {"hidden_size": 12, "output_size": 10, "num_layers": 2, "subsample": [2, 1]}
ATTENTION = {"hidden_size": 12, "att_conf": {"atype": "dot", "adim": 8}}
KINDS: dict[str, dict[str, Any]] = {
    "blstmp_ctc_bpe": {"encoder": "rnn", "encoder_conf": BLSTMP, "model_conf": {"ctc_weight": 1.0},
                       "normalize": "global_mvn"},
    "gru_ctc": {"encoder": "rnn", "model_conf": {"ctc_weight": 1.0},
                "encoder_conf": {**BLSTMP, "rnn_type": "gru", "use_projection": False, "bidirectional": False}},
    "vgg_attention": {"encoder": "vgg_rnn", "decoder": "rnn", "model_conf": {"ctc_weight": 0.3},
                      "encoder_conf": {"hidden_size": 12, "output_size": 10, "num_layers": 1},
                      "decoder_conf": {**ATTENTION, "num_layers": 2}},
    "gru_attention": {"encoder": "rnn", "encoder_conf": {**BLSTMP, "bidirectional": False}, "decoder": "rnn",
                      "decoder_conf": {**ATTENTION, "rnn_type": "gru"}},
    "transducer": {"encoder": "rnn", "encoder_conf": BLSTMP, "decoder": "transducer",
                   "decoder_conf": {"hidden_size": 12}, "joint_net_conf": {"joint_space_size": 8},
                   "model_conf": {"ctc_weight": 0.0}},
    "lm_lstm": {"lm": "seq_rnn", "lm_conf": {"unit": 12}},
    "lm_gru": {"lm": "seq_rnn", "lm_conf": {"unit": 12, "rnn_type": "gru", "nlayers": 1}},
    "slu_gru": {"encoder": "rnn", "encoder_conf": {**BLSTMP, "rnn_type": "gru"}, "model_conf": {"ctc_weight": 1.0}},
    "new_transducer": {"encoder_conf": {"body_conf": [{"block_type": "conv1d", "kernel_size": 3, "output_size": 8}]},
                       "decoder": "rnn", "decoder_conf": {"embed_size": 8, "hidden_size": 12},
                       "joint_network_conf": {"joint_space_size": 8}, "model_conf": {}},
    "conformer": {"encoder": "transformer", "encoder_conf": {"output_size": 8, "attention_heads": 2, "num_blocks": 1}},
}  # fmt: skip
TASKS = {"slu_gru": ("slu", "SLUTask"), "new_transducer": ("asr_transducer", "ASRTransducerTask")}


def task_of(kind: str) -> type:
    """ESPnet's task."""
    sys.path.append(str(ROOT / "bench/transducer_loss"))  # ESPnet's transducer loss has no wheel
    name, owner = TASKS.get(kind, ("lm", "LMTask") if kind.startswith("lm") else ("asr", "ASRTask"))
    return getattr(importlib.import_module(f"espnet2.tasks.{name}"), owner)


def make_data(root: Path) -> Path:
    """A Kaldi dir of six utterances, `bpe.model`, `feats_stats.npz` and token lists beside it."""
    import sentencepiece

    data, noise = root / "data", np.random.default_rng(0)
    data.mkdir(parents=True)
    text, audio, shapes = [], [], []
    for number in range(6):
        name, samples = f"utt{number}", 4000 + 400 * number
        soundfile.write(data / f"{name}.wav", 0.1 * noise.standard_normal(samples), 16000)
        text.append(f"{name} {' '.join(noise.choice(WORDS, 2))}\n")
        audio.append(f"{name} {data / name}.wav\n")
        shapes.append(f"{name} {samples}\n")
    for name, lines in (("text", text), ("wav.scp", audio), ("speech_shape", shapes)):
        (data / name).write_text("".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.partition(" ")[2] for line in text] * 20), model_prefix=str(root / "bpe"),
        vocab_size=12, model_type="bpe", unk_id=0, bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    loaded = sentencepiece.SentencePieceProcessor(model_file=str(root / "bpe.model"))
    pieces = [loaded.id_to_piece(number) for number in range(1, len(loaded))]
    for name, tokens in (("bpe_tokens.txt", pieces), ("word_tokens.txt", WORDS)):
        (root / name).write_text("".join(f"{one}\n" for one in ("<blank>", "<unk>", *tokens, "<sos/eos>")))
    np.savez(root / "feats_stats.npz", count=10.0, sum=np.full(8, -30.0), sum_square=np.full(8, 110.0))
    return data


def make_model(root: Path, kind: str) -> Path:
    """The experiment folder of a model that `asr_train` or `lm_train` might have written; `root` as of `make_data`."""
    task, exp = task_of(kind), root / kind
    bpe = kind.endswith("bpe")
    arguments = task.get_parser().parse_args(["--output_dir", str(exp)])
    values = {
        **vars(arguments),
        "token_list": (root / f"{'bpe' if bpe else 'word'}_tokens.txt").read_text().split(),
        "token_type": "bpe" if bpe else "word",
        "bpemodel": str(root / "bpe.model") if bpe else None,
        "version": "202511",
        **KINDS[kind],
    }
    if "encoder" in KINDS[kind]:
        values |= {"frontend_conf": FRONTEND, "input_size": None}
        values.setdefault("decoder", None)
        if values["normalize"] == "global_mvn":
            values["normalize_conf"] = {"stats_file": str(root / "feats_stats.npz")}
        # ESPnet 202611 does not bring the package that its error rates need
        values["model_conf"] = {**values["model_conf"], "report_cer": False, "report_wer": False}
        if values["decoder"] is None:
            values["model_conf"]["ctc_weight"] = 1.0
    torch.manual_seed(3)
    model = task.build_model(argparse.Namespace(**values))
    exp.mkdir()
    torch.save(model.state_dict(), exp / "valid.loss.best.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump(values))
    return exp
