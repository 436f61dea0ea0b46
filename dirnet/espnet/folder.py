"""The experiment folder of a compressed ESPnet model: what ESPnet's own programs decode, pack and train on."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dirnet.compression.picture import picture
from dirnet.compression.report import markdown
from dirnet.errors import UserError
from dirnet.espnet import source, wrap
from dirnet.espnet.source import Source
from dirnet.files import atomic_write, read_json
from dirnet.nn.coding import CodedLayer
from dirnet.nn.settings import settings_of

CONFIG, TRAIN, MODEL, TOKENS, REPORT = "config.yaml", "train.yaml", "model.pth", "tokens.txt", "compression.json"
WHOLE = ("asr", "slu", "s2t")  # tasks whose model is a choice: everything in it can be wrapped at once
CALLED = {"asr_transducer": ("asr", "asr"), "slu": ("slu", "asr")}  # tasks in options of inference and pack
EPOCHS, RATE = 5, 1 / 3  # of a fine-tuning, the learning rate as a share of the training's
# Of the run that trained the model, not of the model; data are `append` options, which a config would double.
OF_A_RUN = (
    "config", "output_dir", "version", "distributed", "dry_run", "collect_stats", "print_config", "init_param",
    "freeze_param", "ngpu", "num_workers", "num_iters_per_epoch", "resume", "token_list", "pretrain_path", "local_rank",
    "multiprocessing_distributed",
)  # fmt: skip
OF_A_RUN_ENDS = ("_shape_file", "_data_path_and_name_and_type")
OF_A_RUN_STARTS = ("dist_", "wandb_", "use_wandb", "required")


def write(found: Source, model: nn.Module, report: Mapping[str, Any], out: Path) -> None:
    """Write `model`, compressed, with `report`; `compression.json` comes first, empty, and last: then all is whole.

    The files that the configuration names are copied; their paths in it are those from here, as `espnet2.bin.pack`
    wants them.
    """
    with atomic_write(out / REPORT) as mark:  # a kill leaves a folder that is ours, and no report of other weights
        mark.write("{}\n")
    names: dict[str, str] = {}
    for value, path in found.files.items():
        target = out / path.name
        if any(other == str(target) for other in names.values()):
            target = out / f"{path.parent.name}_{path.name}"
        if not (target.exists() and target.samefile(path)):
            shutil.copyfile(path, target)
        names[value] = str(target)
    config = wrapped_config(source.replaced_strings(dict(found.config), names), model, found.task)
    tokens = token_list(config)
    with atomic_write(out / TOKENS) as stream:
        stream.write("".join(f"{token}\n" for token in tokens))
    config["token_list"] = tokens  # as ESPnet's training leaves it
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    with atomic_write(out / MODEL, "wb") as weights:
        weights.write(stream.getvalue())
    with atomic_write(out / CONFIG) as text:
        text.write(source.dump(config))
    with atomic_write(out / TRAIN) as text:
        text.write(source.dump(training(config, str(out / TOKENS))))
    with atomic_write(out / "compression.md") as table, atomic_write(out / "compression.png", "wb") as image:
        table.write(markdown(dict(report)))
        image.write(picture(model, dict(report)))
    with atomic_write(out / REPORT) as data:
        data.write(json.dumps(report, indent=1, allow_nan=False) + "\n")


def holds(out: Path, request: Mapping[str, Any]) -> bool:
    """Whether `out` has what `write` left for `request`, and all of it."""
    whole = all((out / name).is_file() for name in (CONFIG, TRAIN, MODEL, TOKENS))
    return whole and (read_json(out / REPORT) or {}).get("request") == request


def refuse_trained(out: Path) -> None:
    """A `UserError` where `out` holds a model that `write` did not write, or its configuration."""
    held = next((path.name for path in (*sorted(out.glob("*.pth")), out / CONFIG) if path.exists()), None)
    if held and not (out / REPORT).exists():
        raise UserError(f"--out {out} holds a trained model ({held}), which would be lost; give another folder")


def wrapped_config(config: Mapping[str, Any], model: nn.Module, task: str) -> dict[str, Any]:
    """The configuration that builds `model`, an empty one: that of the dense model with `dirnet_wrap` in it."""
    layers = {name: settings_of(module) for name, module in model.named_modules() if isinstance(module, CodedLayer)}
    config = dict(config)
    parts: dict[str, dict[str, Any]] = {}
    for name, settings in layers.items():
        part, _, rest = ("model", "", name) if task in WHOLE else name.partition(".")
        parts.setdefault(part, {})[rest] = settings
    for part, inside in parts.items():
        base = config.get(part) or ("espnet" if part == "model" else None)
        if not isinstance(base, str) or (base == "transducer" and part == "decoder"):
            raise UserError(f"{part} of task {task} cannot be compressed: ESPnet builds it by rules of its own")
        conf = {**(config.get(f"{part}_conf") or {}), "base": base, "layers": inside}
        config |= {part: wrap.NAME, f"{part}_conf": conf}
    return config


def token_list(config: Mapping[str, Any]) -> list[str]:
    """The tokens, which a configuration holds or names the file of."""
    tokens = config["token_list"]
    if isinstance(tokens, str):
        return [line.rstrip() for line in Path(tokens).read_text(encoding="utf-8").splitlines()]
    return list(tokens)


def training(config: Mapping[str, Any], tokens: str) -> dict[str, Any]:
    """What to give ESPnet's training program as `--config`: no data, few epochs, a lower learning rate."""
    kept = {
        key: value
        for key, value in config.items()
        if key not in OF_A_RUN and not key.endswith(OF_A_RUN_ENDS) and not key.startswith(OF_A_RUN_STARTS)
    }
    kept |= {"token_list": tokens, "init": None, "max_epoch": EPOCHS}
    optim = dict(kept.get("optim_conf") or {})
    if isinstance(optim.get("lr"), int | float | str):
        optim["lr"] = float(f"{float(optim['lr']) * RATE:.3g}")
    return {**kept, "optim_conf": optim}


def next_steps(found: Source, out: Path) -> str:
    """The three commands that follow, with the data of the training where it is known."""
    task, python, data = found.task, "dirnet-python -m espnet2.bin", []
    config, model, train, tuned, archive = (
        shlex.quote(str(path)) for path in (out / CONFIG, out / MODEL, out / TRAIN, f"{out}_tuned", f"{out}.zip")
    )
    for kind in ("train", "valid"):
        for entry in found.config.get(f"{kind}_data_path_and_name_and_type") or []:
            data.append(f"--{kind}_data_path_and_name_and_type {shlex.quote(','.join(entry))}")
        data += [f"--{kind}_shape_file {shlex.quote(path)}" for path in found.config.get(f"{kind}_shape_file") or []]
    data = data or [f"--{kind}_data_path_and_name_and_type ..." for kind in ("train", "valid")]
    tune = f"{python}.{task}_train --config {train} --init_param {model} --output_dir {tuned}"
    steps = [("fine-tune", " \\\n      ".join([tune, *data]))]
    if task == "lm":
        steps += [
            ("score", f"{python}.lm_calc_perplexity --train_config {config} --model_file {model} "
                      "--data_path_and_name_and_type TEXT,text,text --output_dir OUT"),
            ("pack", f"{python}.pack asr ... --lm_train_config {config} --lm_file {model} --outpath ZIP"
                     " \\\n      && dirnet zoo compact ZIP"),
        ]  # fmt: skip
    else:
        kind = "feats.scp,speech,kaldi_ark" if found.config.get("input_size") else "wav.scp,speech,sound"
        options = "".join(f" --option {shlex.quote(str(out / path.name))}" for path in found.files.values())
        decoded, packed = CALLED.get(task, (task, task))
        steps += [
            ("decode", f"{python}.{task}_inference --{decoded}_train_config {config} --{decoded}_model_file "
                       f"{model} --data_path_and_name_and_type DATA/{kind} --output_dir OUT"),
            ("pack", f"{python}.pack {packed} --{packed}_train_config {config} --{packed}_model_file "
                     f"{model}{options} --outpath {archive} \\\n      && dirnet zoo compact {archive}"),
        ]  # fmt: skip
    return "\n".join(f"  {name}:\n    {command}" for name, command in steps)


def relative(path: Path) -> Path:
    """`path` as seen from here where it lies below, as ESPnet's recipes and packages have it."""
    below = os.path.relpath(path)
    return path if below.startswith("..") else Path(below)
