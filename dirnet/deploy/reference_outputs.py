"""Reference outputs of a model, small enough for the `.json` beside its program, and a program's difference from them.

`record` them at export with eager torch, `compare` anywhere, without the model.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy.parity import disparity
from dirnet.deploy.program import Program
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel


@torch.no_grad()
def record(model: AcousticModel, features: Tensor) -> dict[str, Any]:
    """Log posteriors of eager `model` for un-normalised `features` (frames, size), as plain JSON values."""
    expected = model(features[None], torch.tensor([len(features)]))[0][0]
    return {"features": _pack(features), "log_posteriors": _pack(expected)}


def compare(program: Program, reference: Mapping[str, Any]) -> tuple[float, float]:
    """How far `program` is from `reference`, and how far it may be (`parity.disparity`); more is a `UserError`."""
    features, expected = _unpack(reference["features"]), _unpack(reference["log_posteriors"])
    found = program.stream(features).log_softmax(dim=-1)
    same = found.shape == expected.shape
    apart, limit = disparity(expected, found, program.dtype) if same else (math.inf, 0.0)
    if not apart <= limit:  # NaN is refused too
        raise UserError(
            f"{program.path} differs by {apart:.2g} from the reference outputs in its .json, expected at most "
            f"{limit:g}; export it again"
        )
    return apart, limit


def _pack(values: Tensor) -> dict[str, Any]:
    """Shape, and the little-endian float32 values in base64."""
    content = values.detach().numpy().astype("<f4").tobytes()
    return {"shape": list(values.shape), "float32": base64.b64encode(content).decode()}


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    content = np.frombuffer(base64.b64decode(packed["float32"]), "<f4").astype(np.float32)
    return torch.from_numpy(content.reshape(packed["shape"]))
