"""What training a compressed model must not change; the training itself is the toolkit's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirnet.errors import UserError


def refuse_changed_layout(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """A `UserError` unless two state dicts hold the same names, shapes and supports: the zeros stayed zero.

    Only kept codes are parameters, so training cannot break this; loading weights of another run can.
    """
    for name in sorted(before.keys() ^ after.keys()):
        what = "gone" if name in before else "new"
        raise UserError(f"{name} is {what} after training; start again from the compressed model")
    for name, old in before.items():
        if old.shape != after[name].shape:
            raise UserError(f"{name} was {list(old.shape)} and is {list(after[name].shape)} after training")
        if not old.is_floating_point() and not torch.equal(old.cpu(), after[name].cpu()):
            raise UserError(f"{name} changed in training: other codes are non-zero now than compression had kept")


def refuse_replaced_start(out: Path, before: Mapping[str, Any] | None, request: Mapping[str, Any]) -> None:
    """A `UserError` where `out`, made by the request `before`, is the `start` of a training and `request` is another.

    The training, whose folder `out` lies in, would refuse to go on from it, and a report would tell of a model that
    was not trained.
    """
    if out.name != "start" or not before or before == request:
        return
    patterns = (f"{below}{name}" for below in ("", "*/") for name in ("model.pth", "checkpoint*.pth"))
    if any(path.parent != out for pattern in patterns for path in out.parent.glob(pattern)):
        other = ", ".join(sorted(key for key in before.keys() | request.keys() if before.get(key) != request.get(key)))
        raise UserError(f"{out.parent} holds a training that began with {out}, made with another {other}; remove "
                        f"{out.parent} or give another folder")  # fmt: skip
