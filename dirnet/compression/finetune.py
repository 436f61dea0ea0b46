"""What training a compressed model must not change; the training itself is the toolkit's."""

from __future__ import annotations

from collections.abc import Mapping

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
