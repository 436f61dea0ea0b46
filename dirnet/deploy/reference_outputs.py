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

from dirnet.deploy.program import Program
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel


@torch.no_grad()
def record(model: AcousticModel, features: Tensor, tolerance: float) -> dict[str, Any]:
    """Log posteriors of eager `model` for un-normalised `features` (frames, size), as plain JSON values.

    tolerance: the largest difference of a log posterior that `compare` lets pass.
    """
    expected = model(features[None], torch.tensor([len(features)]))[0][0]
    return {"features": _pack(features), "log_posteriors": _pack(expected), "tolerance": tolerance}


def compare(program: Program, reference: Mapping[str, Any]) -> float:
    """The largest difference of a log posterior of `program` from `reference`; above its tolerance a `UserError`."""
    features, expected = _unpack(reference["features"]), _unpack(reference["log_posteriors"])
    found = program.stream(features).log_softmax(dim=-1)
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else math.inf
    if not difference <= reference["tolerance"]:  # NaN is refused too
        raise UserError(
            f"{program.path} differs by {difference:.2g} from the reference outputs in its .json, expected at most "
            f"{reference['tolerance']:g}; export it again"
        )
    return difference


def _pack(values: Tensor) -> dict[str, Any]:
    """Shape, and the little-endian float32 values in base64."""
    content = values.detach().numpy().astype("<f4").tobytes()
    return {"shape": list(values.shape), "float32": base64.b64encode(content).decode()}


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    content = np.frombuffer(base64.b64decode(packed["float32"]), "<f4").astype(np.float32)
    return torch.from_numpy(content.reshape(packed["shape"]))
