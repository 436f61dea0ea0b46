"""What fine-tuning takes from the dense model: a teacher to distil from, weights where gradual pruning starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dirnet.compression.distillation import Distillation
from dirnet.compression.support import SupportSchedule, loosen
from dirnet.config import from_mapping
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel


def loosened(init: Path, dense: Path | None) -> tuple[AcousticModel, dict[str, Any]] | None:
    """The model in `init` ready to move its support, and `kind` and `kept` of its `SupportSchedule`.

    None unless it was compressed by a method whose `support` is gradual or regrow. dense: the model that it was made
    of, from whose weights gradual pruning starts; none or another one is a `UserError`.
    """
    if not (init / storage.DESCRIPTION).exists():
        return None
    compression = storage.describe(init).get("extra", {}).get("compression", {})
    kind = compression.get("settings", {}).get("support", "fixed")
    if kind == "fixed":
        return None
    original = None
    if kind == "gradual":
        if dense is None:
            raise UserError(f"{init} is to be pruned gradually, from the dense model on; give that with --dense")
        if storage.describe(dense)["sha256"] != compression["dense_sha256"]:
            raise UserError(f"--dense {dense} is not the model that {init} was made of; give that one")
        original = storage.load(dense)
    model = storage.load(init)
    return model, {"kind": kind, "kept": list(loosen(model, original))}


def take_support(config: dict[str, Any], moving: Mapping[str, Any] | None) -> None:
    """Complete `model_conf: support` of `config` for a model whose support moves; take it out for any other."""
    conf = config["model_conf"] = dict(config.get("model_conf") or {})
    pace = conf.pop("support", None) or {}
    if not isinstance(pace, dict) or pace.keys() & {"kind", "kept"}:
        raise UserError(f"model_conf: support is {pace!r}, expected epochs and regrow; the method says the rest")
    if moving is not None:
        schedule = from_mapping(SupportSchedule, {**pace, **moving}, "model_conf: support")
        conf["support"] = json.loads(json.dumps(dataclasses.asdict(schedule)))  # defaults included, tuples as lists


def take_teacher(config: dict[str, Any], dense: Path | None) -> str | None:
    """Fill in `model_conf: teacher` of `config` where it distils; returns the sha256 of the teacher.

    None, and `dense` unread, where `distill` has no weight. A teacher that reads other frames is a `UserError`.
    """
    conf = config["model_conf"] = dict(config.get("model_conf") or {})
    if not from_mapping(Distillation, dict(conf.get("distill") or {}), "model_conf: distill").weight:
        return None
    teacher = Path(conf["teacher"]) if conf.get("teacher") else dense
    if teacher is None:
        raise UserError("model_conf: distill has a weight, but there is no teacher; give the dense model with --dense")
    theirs = storage.load(teacher).config
    for key, where in (("context", "preencoder_conf"), ("frame_stride", "encoder_conf")):
        ours = (config.get(where) or {}).get(key, getattr(theirs, key))
        if getattr(theirs, key) != ours:
            raise UserError(f"teacher {teacher} has {key} {getattr(theirs, key)}, expected {ours} as in {where}")
    conf["teacher"] = str(teacher)
    return storage.describe(teacher)["sha256"]
