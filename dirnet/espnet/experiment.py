"""The configuration of one training run: the user's YAML, the data, the model to start from."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dirnet.config import read_yaml
from dirnet.errors import UserError, did_you_mean
from dirnet.espnet.versions import imported
from dirnet.espnet.wrap import NAME

REQUIRED = {"frontend": "mfcc", "normalize": "global_mvn", "preencoder": "splice", "encoder": "dirnet_rnn"}
REFUSED = {
    "--output_dir": "give the folder as --exp", "--init_param": "give the model as --init",
    **dict.fromkeys(("--collect_stats", "--dry_run", "--print_config"), "it would train nothing; leave it out"),
}  # fmt: skip
MODELS = ("dirnet_ctc", "dirnet_smbr")
# What models report, by phase; in training also `loss_distill` where they distil.
OF_SMBR = {"loss", "loss_ctc", "loss_smbr", "smbr_acc", "skipped", "per"}
REPORTED = {
    "dirnet_ctc": {"train": {"loss", "loss_ctc"}, "valid": {"loss", "loss_ctc", "per"}},
    "dirnet_smbr": {"train": OF_SMBR, "valid": OF_SMBR},
    "lm": {"train": {"loss"}, "valid": {"loss"}},
}


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and value >= least, f"a whole number from {least}"


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _counts(value: Any) -> bool:
    values = value if isinstance(value, list) and value else [value]
    return all(type(one) is int and one >= 1 for one in values)


VALUES = {  # of the user's configuration: whether it is right, and what would be
    "max_epoch": _whole(1),
    "batch_size": _whole(1),
    "keep_nbest_models": (_counts, "a whole number from 1, or several"),
    "encoder_conf: frame_stride": (lambda value: value in (1, 2, 3), "1, 2 or 3"),
    "encoder_conf: hidden_size": _whole(1),
    "encoder_conf: num_layers": _whole(1),
    "preencoder_conf: context": _whole(0),
    "model_conf: distill": (lambda value: isinstance(value, Mapping), "weight and temperature"),
    **{f"model_conf: {name}": (_number, "a number")
       for name in ("blank_bias", "acoustic_scale", "blank_weight", "ctc_smooth")},
}  # fmt: skip
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def espnet_task() -> type:
    """ESPnet's ASR task with our trainer."""
    return imported("dirnet.espnet.task").RecipeTask


def read(path: Path) -> dict[str, Any]:
    """The YAML file `path`, its numbers as `with_numbers` leaves them."""
    return with_numbers(read_yaml(path))


def with_numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with numbers such as 4e-3 in its `*_conf`, which YAML 1.1 reads as strings; ESPnet converts the rest."""

    def converted(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: converted(one) for key, one in value.items()}
        if isinstance(value, list):
            return [converted(one) for one in value]
        return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value

    return {key: converted(value) if str(key).endswith("_conf") else value for key, value in config.items()}


def check_choices(config: Mapping[str, Any], where: Path) -> None:
    """The parts that a neutral model can be made of; anything else is a `UserError`."""
    for key, name in REQUIRED.items():
        if config.get(key) != name:
            raise UserError(f"{where}: {key} is {config.get(key)!r}, expected {name}")
    if config.get("model") not in MODELS:
        raise UserError(f"{where}: model is {config.get('model')!r}, expected {' or '.join(MODELS)}")


def check_values(config: Mapping[str, Any], where: Path) -> None:
    """The values in `VALUES` that `config` has; a wrong one would end late, or in an error that does not name it."""
    for name, (is_right, right) in VALUES.items():
        outer, _, key = name.rpartition(": ")
        conf = config.get(outer) if outer else config
        if conf is not None and not isinstance(conf, Mapping):
            raise UserError(f"{where}: {outer} is {conf!r}, expected `key: value` lines")
        value = (conf or {}).get(key)
        if value is not None and not is_right(value):
            raise UserError(f"{where}: {name} is {value!r}, expected {right}")


def check_keys(config: Mapping[str, Any], task: type, where: Path) -> None:
    """Every key, and every key of a `*_conf` of a class, must be one that ESPnet or the class knows."""
    parser = task.get_parser()
    known = {action.dest for action in parser._actions}
    for key in config:
        _known(key, known, f"{where}: ")
    check_confs(config, task, where)
    for action in parser._actions:
        value = config.get(action.dest)
        if value is None or not action.choices:
            continue
        meant = action.type(value) if isinstance(value, str) and action.type else value
        if meant not in action.choices:
            names = [str(choice) for choice in action.choices]
            raise UserError(f"{where}: {action.dest} is {value!r}; {did_you_mean(str(value), names)}")


def check_criteria(config: Mapping[str, Any], where: Path) -> None:
    """The criteria of early stopping, learning rate and best epoch must be what the model reports.

    ESPnet looks for them after the first epoch. Of several for the best epoch it passes over those that it does not
    find, as its own defaults; the first one chooses our model.
    """
    reported = REPORTED.get(config["model"])
    if reported is None:
        return
    distils = ((config.get("model_conf") or {}).get("distill") or {}).get("weight")
    best = config["best_model_criterion"][:1]
    for key, criterion in [("val_scheduler_criterion", config["val_scheduler_criterion"]),
                           ("early_stopping_criterion", config["early_stopping_criterion"]),
                           *(("best_model_criterion", one) for one in best)]:  # fmt: skip
        phase, name, *mode = [*criterion, None, None][: 2 if key.startswith("val") else 3]
        for value, known in [(phase, {*reported}), *((one, {"min", "max"}) for one in mode)]:
            if value not in known:
                raise UserError(f"{where}: {key} has {value!r}, expected {' or '.join(sorted(known))}")
        names = reported[phase] | ({"loss_distill"} if distils and phase == "train" else set())
        if name not in names:
            raise UserError(f"{where}: {key} is {name!r} of {phase}, which {config['model']} does not report; "
                            + did_you_mean(str(name), sorted(names)))  # fmt: skip


def check_schedule(config: Mapping[str, Any], where: Path) -> None:
    """A cosine that ends before training does would rise again."""
    end, epochs = (config.get("scheduler_conf") or {}).get("T_max"), config["max_epoch"]
    if str(config.get("scheduler")).lower() == "cosineannealinglr" and end is not None and end < epochs:
        raise UserError(f"{where}: scheduler_conf has T_max {end}, after which the rate rises again; expected "
                        f"max_epoch, {epochs}")  # fmt: skip


def check_confs(config: Mapping[str, Any], task: type, where: Path) -> None:
    """Every key of a `*_conf` of a class, optimizer or scheduler must be one that it knows."""
    for choice in task.class_choices_list:
        name, conf = config.get(choice.name), config.get(f"{choice.name}_conf") or {}
        if name is None:
            continue
        if name not in choice.classes:
            raise UserError(f"{where}: {choice.name} is {name!r}, expected one of {', '.join(choice.classes)}")
        if name != NAME:  # it passes on what it does not know
            _known_all(conf, choice.classes[name], f"{where}: {choice.name}_conf: ")
    abs_task = importlib.import_module("espnet2.tasks.abs_task")
    for part, classes in (("optim", abs_task.optim_classes), ("scheduler", abs_task.scheduler_classes)):
        if config.get(part) in classes:
            _known_all(config.get(f"{part}_conf") or {}, classes[config[part]], f"{where}: {part}_conf: ")


def check_overrides(overrides: Iterable[str], task: type) -> None:
    """Options for ESPnet on the command line: ESPnet's names, and none that would leave no model in --exp."""
    known = {option for action in task.get_parser()._actions for option in action.option_strings}
    for word in overrides:
        if word.startswith("--"):
            name = word.partition("=")[0]
            if name in REFUSED:
                raise UserError(f"{name} is not for ESPnet here; {REFUSED[name]}")
            _known(name, known, "")


def arguments_of(kind: type) -> set[str]:
    """Names that `kind(...)` takes, those of base classes included where it passes them on."""
    names: set[str] = set()
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(owner.__init__).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names


def take_shape(config: dict[str, Any], shape: Mapping[str, Any], where: Path, initial: Path) -> None:
    """Let the encoder have the shape of the model to start from; a different value in the config is a `UserError`."""
    encoder = config.setdefault("encoder_conf", {})
    for key, value in shape.items():
        if encoder.get(key, value) != value:
            raise UserError(
                f"{where}: encoder_conf: {key} is {encoder[key]!r}, but {initial} is of another architecture with "
                f"{value!r}; leave {key} out to take it from there"
            )
        encoder[key] = value


def _known_all(keys: Iterable[str], kind: type, where: str) -> None:
    for key in keys:
        _known(key, arguments_of(kind), where)


def _known(key: str, names: set[str], where: str) -> None:
    if key not in names:
        hint = did_you_mean(key, names, "see ESPnet's asr_train --help")
        raise UserError(f"{where}unknown key {key!r}; {hint}")
