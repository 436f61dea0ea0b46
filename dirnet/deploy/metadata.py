"""What a program must tell about itself: the constants of `dirnet.deploy.export.constants`, complete and sensible."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import dirnet
from dirnet.errors import UserError

Check = tuple[type, str, Callable[[Any], bool]]  # type, what is expected, whether a value of the type is that


def _at_least(least: int) -> Check:
    return int, f"a whole number from {least} to 1000000", lambda value: least <= value <= 1000000


def _mapping(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


TEXT: Check = (str, "a text", lambda value: True)
CONSTANTS: dict[str, Check] = {
    "dirnet_version": TEXT,
    "name": TEXT,
    "backend": (str, "dirnet or xnnpack", lambda value: value in ("dirnet", "xnnpack")),
    "rnn_type": TEXT,
    "compressed": (bool, "true or false", lambda value: True),
    "dtype": (str, "float32 or int8", lambda value: value in ("float32", "int8")),
    "params": (int, "a whole number above 0", lambda value: value > 0),
    "model_sha256": TEXT,
    "phones": (str, "different names by blanks", lambda value: len(set(value.split())) == len(value.split()) > 1),
    "sample_rate": _at_least(1),
    "frame_shift_ms": (float, "milliseconds above 0", lambda value: 0 < value < math.inf),
    "feature_size": _at_least(1),
    "mfcc": (str, "a JSON object", _mapping),
    "cmvn_mean": (Tensor, "finite values", lambda value: value.isfinite().all()),
    "cmvn_istd": (Tensor, "finite values above 0", lambda value: (value.isfinite() & (value > 0)).all()),
    "context": _at_least(0),
    "stride": _at_least(1),
    "chunk": _at_least(1),
    "max_chunk": _at_least(1),
    "state_sizes": (Tensor, "two sizes above 0 per layer",
                    lambda value: value.dim() == 1 and len(value) % 2 == 0 < len(value) and
                    ((0 < value) & (value <= 1000000)).all()),
}  # fmt: skip


def check(metadata: Mapping[str, Any], path: str | Path) -> None:
    """A `UserError` unless the constants of the program `path` are those of this version, each of them sensible."""
    version = metadata.get("dirnet_version")
    if isinstance(version, str) and _series(version) != _series(dirnet.__version__):
        raise UserError(f"{path} was exported by dirnet {version}, this is {dirnet.__version__}; export it again")
    for name, (kind, expected, sensible) in CONSTANTS.items():
        if name not in metadata:
            raise UserError(f"{path} does not tell its {name}, as programs of this version do; export it again")
        value = metadata[name]
        if type(value) is not kind or not sensible(value):
            shown = f"a tensor of {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise UserError(f"{path} says that its {name} is {shown}, expected {expected}; export it again")
    for name in ("cmvn_mean", "cmvn_istd"):
        if metadata[name].shape != (metadata["feature_size"],):
            raise UserError(f"{path} says that its {name} is a tensor of {list(metadata[name].shape)}, expected "
                            f"feature_size, {metadata['feature_size']}, values; export it again")  # fmt: skip
    if metadata["chunk"] > metadata["max_chunk"]:
        raise UserError(f"{path} says that its chunk is {metadata['chunk']}, expected at most max_chunk, "
                        f"{metadata['max_chunk']}; export it again")  # fmt: skip


def _series(version: str) -> list[str]:
    """The part of a version that tells what fits together: the major number, below 1.0 the minor one too."""
    parts = version.split(".")
    return parts[:2] if parts[0] == "0" else parts[:1]
