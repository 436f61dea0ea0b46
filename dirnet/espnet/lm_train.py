"""Train language models with ESPnet, or fine-tune compressed ones: several, one after the other, in one process.

What follows the named options is passed to ESPnet: `--max_epoch 20 --lm_conf dropout_rate=0.3`. The folder that is left
is ESPnet's (`config.yaml`, checkpoints, and `model.pth`, the best epoch's) and holds the neutral model, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from dirnet.asr.datadir import read_lines
from dirnet.compression.budget import parse_size
from dirnet.config import read_yaml
from dirnet.errors import UserError, one_line_errors
from dirnet.espnet import checkpoint, experiment
from dirnet.espnet.launch import FINAL, begun, fingerprint, is_finished, parse, rank_of, refuse_other, run
from dirnet.espnet.lm_model import DEFAULTS, neutral_model, shape
from dirnet.espnet.versions import imported
from dirnet.files import atomic_write, read_json
from dirnet.nn import storage
from dirnet.options import Parser, place
from dirnet.provenance import commit, cpu_name

RECORD = "lm.json"
SHAPE = ("lm", "lm_conf", "model", "model_conf", "token_list", "token_type")


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Train every model that is not finished; an interrupted training goes on."""
    parser = Parser(prog="python -m dirnet.espnet.lm_train", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="ESPnet's options, e.g. conf/ptb/train_lm.yaml")
    parser.add_argument("--data", default=Path("data"), type=Path, help="holds SET/text, SET/text_shape, tokens.txt")
    parser.add_argument("--train", default="train", help="training set")
    parser.add_argument("--valid", default="valid", help="validation set")
    parser.add_argument("--exp", required=True, type=place, nargs="+", help="folders of the experiments")
    parser.add_argument("--init", type=Path, nargs="+", default=[], help="folders of the models to start from")
    parser.add_argument("--smaller", help="e.g. 6.7x: as many units as leave so many times fewer recurrent weights")
    arguments, overrides = parse(parser, argv)
    if arguments.smaller and arguments.init:
        raise UserError(f"--smaller {arguments.smaller} makes a new shape, --init takes one; leave one out")
    if arguments.init and len(arguments.init) != len(arguments.exp):
        raise UserError(f"--init names {len(arguments.init)} folders, --exp {len(arguments.exp)}; give one for each")
    for exp, init in zip(arguments.exp, arguments.init or [None] * len(arguments.exp), strict=True):
        train(exp, init, arguments, overrides)
    return 0


def train(exp: Path, init: Path | None, arguments: argparse.Namespace, overrides: list[str]) -> None:
    """One model: configuration, ESPnet's training, the best epoch as `model.pth`. `arguments` as of `main`."""
    config = configuration(init, arguments)
    state = checkpoint.load_state(init / FINAL) if init else None
    digest = fingerprint(config, overrides, state, exp)
    refuse_other_tokens(exp, config)
    record = read_json(exp / RECORD) if (exp / FINAL).exists() else None
    if is_finished(exp, record, digest, config, overrides):
        if not (exp / storage.DESCRIPTION).exists():
            finish(exp, digest, init)
        print(f"{exp}: already trained; remove the folder to train again")
        return
    refuse_other(exp, digest, config)
    exp.mkdir(parents=True, exist_ok=True)
    rank = rank_of(overrides)
    with begun(exp, config, state, digest, rank) as log:
        task = imported("dirnet.espnet.lm_task").RecipeLMTask
        users = {key: value for key, value in config.items() if not init or key not in SHAPE}
        experiment.check_keys(users, task, arguments.config)
        run(exp, task, arguments, overrides, log, init)
    if not rank:
        finish(exp, digest, init)


def configuration(init: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """The user's YAML with what the recipe knows: data, tokens, and the shape of the model in `init`."""
    config, data = experiment.read(arguments.config), arguments.data
    if init:
        given = [key for key in SHAPE if key in config]
        if given:
            raise UserError(f"{arguments.config}: {given[0]} is that of {init}, the model to start from; leave it out")
        theirs = read_yaml(init / "config.yaml")
        config |= {key: theirs[key] for key in SHAPE if theirs.get(key) is not None}
    else:
        config["token_list"] = str(data / "tokens.txt")
        if arguments.smaller:
            conf = {"unit": DEFAULTS["unit"], "nlayers": DEFAULTS["nlayers"], **(config.get("lm_conf") or {})}
            config["lm_conf"] = conf | {"nhid": smaller(conf, arguments.smaller)}
    for path in [data / name for name in ("tokens.txt", f"{arguments.train}/text", f"{arguments.valid}/text_shape")]:
        if not path.exists():
            raise UserError(f"{path} does not exist; run the stages before this one first")
    shape(config, arguments.config)  # before the training: what has no neutral model could not end it
    config["token_type"] = "word"
    for role, name in (("train", arguments.train), ("valid", arguments.valid)):
        config[f"{role}_data_path_and_name_and_type"] = [[str(data / name / "text"), "text", "text"]]
        config[f"{role}_shape_file"] = [str(data / name / "text_shape")]
    return config | {"resume": True, "use_matplotlib": False, "use_tensorboard": False}


def refuse_other_tokens(exp: Path, config: Mapping[str, Any]) -> None:
    """A `UserError` where `exp` holds a training with other tokens: of their file the digest knows only the place."""
    if not (exp / FINAL).exists() and not any(exp.glob("checkpoint*.pth")):
        return
    before, now = read_yaml(exp / "config.yaml")["token_list"], config["token_list"]
    now = read_lines(now) if isinstance(now, str) else now
    if before != now:
        raise UserError(f"{exp} holds a training with other tokens ({len(before)}, now {len(now)}); take that back, "
                        "remove the folder or give another one")  # fmt: skip


def smaller(conf: dict[str, Any], size: str) -> int:
    """Units a layer, embedding size kept, with at most the recurrent weights that `size` leaves of those of `conf`."""
    wanted, unit, layers = parse_size(size), conf["unit"], conf["nlayers"]

    def weights(units: int) -> int:
        rows = units * {"lstm": 4, "gru": 3}.get(conf.get("rnn_type", "lstm"), 1)
        return rows * (unit + units) + (layers - 1) * rows * 2 * units

    whole = weights(conf.get("nhid") or unit)
    limit = wanted.limit(whole) // (4 if wanted.kind == "bytes" else 1)
    if wanted.kind == "rtf" or not weights(1) <= limit <= whole:
        raise UserError(f"--smaller {size} is out of reach; choose from {weights(1):,} to {whole:,} parameters")
    return max(units for units in range(1, (conf.get("nhid") or unit) + 1) if weights(units) <= limit)


def finish(exp: Path, digest: str, init: Path | None) -> None:
    """The epoch with the lowest validation loss as `model.pth` and as neutral model; `lm.json` ends the training."""
    curves = json.loads((exp / "curves.json").read_text(encoding="utf-8"))
    losses = {record["epoch"]: record["dev"]["loss"] for record in curves if "loss" in record["dev"]}
    if not losses:  # the curves leave out what is not finite
        raise UserError(f"{exp}: no epoch has a finite loss; remove the folder and train with a lower learning rate")
    best = min((epoch for epoch in losses if (exp / f"{epoch}epoch.pth").exists()), key=losses.get)
    state = checkpoint.load_state(exp / f"{best}epoch.pth")
    with atomic_write(exp / FINAL, "wb") as stream:
        torch.save(state, stream)
    config = yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))
    storage.save(neutral_model(config, state, exp.name), exp, {"training": {"digest": digest}})
    record = {"digest": digest, "init": str(init) if init else None, "max_epoch": config["max_epoch"],
              "epochs": len(curves), "best_epoch": best, "valid_loss": losses[best], "commit": commit(),
              "device": cpu_name(), "seconds": sum(record["seconds"] for record in curves)}  # fmt: skip
    with atomic_write(exp / RECORD) as stream:
        json.dump(record, stream, indent=1)
    print(f"{exp}: {len(curves)} epochs, best validation loss {losses[best]:.4f} in epoch {best}")


if __name__ == "__main__":
    main()
