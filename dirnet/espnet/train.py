"""Train a recipe's model with ESPnet: CTC, sMBR, or the fine-tuning of a compressed model.

What follows the named options is passed to ESPnet: `--max_epoch 20 --optim_conf lr=0.0005`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from dirnet.asr.datadir import read_lines
from dirnet.asr.features import MfccConfig, Statistics
from dirnet.compression.finetune import refuse_changed_layout
from dirnet.compression.support import tighten
from dirnet.errors import UserError, one_line_errors
from dirnet.espnet import checkpoint, experiment, finetuning, smbr_setup
from dirnet.espnet.corpus import prepare
from dirnet.espnet.launch import FINAL, INITIAL, begun, fingerprint, is_finished, parse, rank_of, refuse_other, run
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.options import Parser, place


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Train, or go on where an interrupted training stopped, and write the neutral model into the same folder."""
    parser = Parser(prog="python -m dirnet.espnet.train", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="YAML: ESPnet's options, e.g. conf/train_ctc.yaml")
    parser.add_argument("--data", default=Path("data"), type=Path, help="holds SET/text_phones, SET/utt2num_frames")
    parser.add_argument("--transcripts", help="name of SET's transcripts in tokens; default: by type, text_phones")
    parser.add_argument("--dump", default=Path("dump/mfcc"), type=Path, help="holds SET/feats.scp and TRAIN/cmvn.npz")
    parser.add_argument("--lang", default=Path("data/lang"), type=Path, help="holds tokens.txt")
    parser.add_argument("--train", default="train", help="training set")
    parser.add_argument("--dev", default="dev", help="development set")
    parser.add_argument("--exp", required=True, type=place, help="folder of this experiment")
    parser.add_argument("--init", type=Path, help="model to start from: a neutral or ESPnet folder, or a .pth file")
    parser.add_argument(
        "--dense", type=Path, help="dense model: teacher if the config distils, start of a gradual pruning"
    )
    parser.add_argument("--shape", type=Path, help="model whose shape, not weights, takes the place of encoder_conf's")
    parser.add_argument(
        "--objective", type=Path, help="config of an sMBR training, whose model and criteria take the place of CTC's"
    )
    parser.add_argument("--smbr_order", type=int, help="order of sMBR's phone n-gram; default: the config's, else 2")
    parser.add_argument("--mfcc_config", type=Path, help="MFCC options of the features; default: Kaldi-style defaults")
    parser.add_argument("--max_frames", default=3600, type=int, help="longest utterance, in 10 ms frames")
    arguments, overrides = parse(parser, argv)
    if arguments.init and arguments.shape:
        raise UserError(f"--shape {arguments.shape} is of no use with --init, which has a shape; leave one out")
    train(arguments, overrides)
    return 0


def train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """One run: configuration, ESPnet's training, the neutral model. `arguments` as of `main`."""
    exp = arguments.exp
    tokens = read_tokens(arguments.lang / "tokens.txt")
    config = experiment.read(arguments.config)
    if arguments.objective:
        smbr_setup.take_objective(config, experiment.read(arguments.objective), arguments.objective)
    experiment.check_choices(config, arguments.config)
    experiment.check_values(config, arguments.config)
    if arguments.smbr_order is not None and config["model"] != "dirnet_smbr":
        raise UserError(f"--smbr_order {arguments.smbr_order} is of no use by CTC ({arguments.config}); leave it out")
    shape, state = checkpoint.read_initial(arguments.init, tokens) if arguments.init else ({}, None)
    moving = finetuning.loosened(arguments.init, arguments.dense) if arguments.init else None
    if moving:
        shape, state = checkpoint.encoder_conf(moving[0]), checkpoint.espnet_state(moving[0], len(tokens))
    if arguments.init:
        experiment.take_shape(config, shape, arguments.config, arguments.init)
    elif arguments.shape:
        shape = checkpoint.encoder_conf(storage.load(arguments.shape))
        config["encoder_conf"] = {**(config.get("encoder_conf") or {}), **shape}
    exp.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=exp, prefix=".data.") as made:  # another training's stay if this is refused
        files = fill(config, arguments, tokens, Path(made))
        finetuning.take_support(config, moving and moving[1])
        teacher = finetuning.take_teacher(config, arguments.dense)
        read = {"teacher_sha256": teacher, "reference_sha256": smbr_setup.reference_digest(config)}
        known = {**config, **{key: value for key, value in read.items() if value}}
        digest = fingerprint(known, overrides, state, exp, files)
        if is_finished(exp, recorded(exp), digest, config, overrides):
            print(f"{exp}: already trained; remove the folder to train again")
            return
        refuse_other(exp, digest, config)
        for place, path in files.items():
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    rank = rank_of(overrides)
    with begun(exp, config, state, digest, rank) as log:
        task = experiment.espnet_task()
        experiment.check_keys(config, task, arguments.config)
        run(exp, task, arguments, overrides, log, arguments.init)
    if not rank:
        finish(exp, digest, arguments.init)


def fill(config: dict[str, Any], arguments: argparse.Namespace, tokens: list[str], made: Path) -> dict[str, Path]:
    """Add to the user's `config` what the recipe knows: data, tokens, statistics, and files it needs made.

    They are made in the folder `made`; returned is where each of them belongs: place -> file.
    """
    mfcc = MfccConfig.read(arguments.mfcc_config) if arguments.mfcc_config else MfccConfig()
    stats = arguments.dump / arguments.train / "cmvn.npz"
    Statistics.read(stats)  # ESPnet would fail late
    config["frontend_conf"] = {"mfcc": dataclasses.asdict(mfcc)}
    config["normalize_conf"] = {"stats_file": str(stats)}
    config["preencoder_conf"] = {"context": 9, **(config.get("preencoder_conf") or {}), "input_size": mfcc.num_ceps}
    config["token_list"], config["token_type"] = str(arguments.lang / "tokens.txt"), "word"
    stride = (config.get("encoder_conf") or {}).get("frame_stride", 1)
    phones = [token for token in tokens if token not in checkpoint.EXTRA_TOKENS][1:]
    for role, name in (("train", arguments.train), ("valid", arguments.dev)):
        kept = prepare(
            arguments.data / name, arguments.dump / name, made / "data" / role, phones, mfcc.num_ceps, stride,
            arguments.max_frames, transcripts_name=arguments.transcripts,
        )  # fmt: skip
        if kept.skipped:
            first, reason = next(iter(kept.skipped.items()))
            print(f"{name}: {len(kept.skipped)} utterances left out, {kept.utterances} kept; first: {first}: {reason}")
        config[f"{role}_data_path_and_name_and_type"] = [
            [str(kept.feats), "speech", "kaldi_ark"],
            [str(arguments.exp / kept.text.relative_to(made)), "text", "text"],
        ]
        config[f"{role}_shape_file"] = [str(arguments.exp / kept.shape.relative_to(made))]
    if config["model"] == "dirnet_smbr":
        smbr_setup.fill(config, arguments, phones, made)
    config.update(resume=True, use_matplotlib=False, use_tensorboard=False, num_att_plot=0)
    return {str(arguments.exp / path.relative_to(made)): path for path in made.rglob("*") if path.is_file()}


def finish(exp: Path, digest: str, initial: Path | None) -> None:
    """Average the best epochs into `model.pth` and write the neutral model beside it."""
    config = yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))
    curves = json.loads((exp / "curves.json").read_text(encoding="utf-8"))
    phase, name, mode = config["best_model_criterion"][0]
    where = "dev" if phase == "valid" else phase
    support = (config.get("model_conf") or {}).get("support")
    first = support["epochs"] if support else 1  # before, the model is still too large
    whole = [record for record in curves if record["epoch"] >= first]
    scores = {record["epoch"]: record[where][name] for record in whole if name in record[where]}
    if not scores:  # the curves leave out what is not finite
        raise UserError(f"{exp}: no epoch has a finite {name}; remove the folder and train with a lower learning rate")
    ranked = sorted(scores, key=lambda epoch: scores[epoch] if mode == "min" else -scores[epoch])
    kept = config["keep_nbest_models"]  # ESPnet takes a number or several
    most = max(kept) if isinstance(kept, list) else kept
    best = [epoch for epoch in ranked if (exp / f"{epoch}epoch.pth").exists()][:most]
    state = checkpoint.average([exp / f"{epoch}epoch.pth" for epoch in best])
    model = checkpoint.neutral_model(config, state, exp.name)
    if (exp / INITIAL).exists():
        refuse_changed_layout(checkpoint.load_state(exp / INITIAL), state)
    if support:
        tighten(model, tuple(support["kept"]))
    with atomic_write(exp / FINAL, "wb") as stream:
        torch.save(state, stream)
    for path in exp.glob("*.ave*.pth"):  # ESPnet's own averages add up integer buffers
        path.unlink()
    extra = {
        "training": {
            "digest": digest,
            "init": str(initial) if initial else None,
            "criterion": f"{phase} {name} {mode}",
            "max_epoch": config["max_epoch"],
            "epochs": len(curves),
            "averaged": best,
            "best": next(record for record in curves if record["epoch"] == best[0]),
            "espnet": config["version"],
        }
    }
    storage.save(model, exp, extra)
    print(f"{exp}: {len(curves)} epochs, best {name} {scores[best[0]]:.4g} in epoch {best[0]}, model of {best}")


def read_tokens(path: Path) -> list[str]:
    """The token list: blank, phones, then ESPnet's two; anything else is a `UserError`."""
    tokens = read_lines(path)
    if tokens[:1] != ["<blank>"] or tuple(tokens[-2:]) != checkpoint.EXTRA_TOKENS or len(set(tokens)) != len(tokens):
        raise UserError(f"{path}: expected <blank>, the phones, {', '.join(checkpoint.EXTRA_TOKENS)}; make it again")
    return tokens


def recorded(exp: Path) -> dict[str, Any] | None:
    """What the neutral model in `exp` tells of its training; None where there is none."""
    if not (exp / storage.DESCRIPTION).exists() or not (exp / storage.WEIGHTS).exists():
        return None
    return storage.describe(exp).get("extra", {}).get("training")


if __name__ == "__main__":
    main()
