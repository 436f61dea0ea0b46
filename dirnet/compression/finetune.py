"""What training a compressed model must not change; the training itself is the toolkit's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.nn.coded import CodedMatrix


class RestingSupport:
    """The invariant of every step: codes stay where compression put them, and so zeros stay zero.

    `step` follows every optimizer step; what it costs is a look at a counter for each group. Only kept codes are
    parameters, so no optimizer can break this; code that writes into `index` or `offsets` can.
    """

    def __init__(self, model: nn.Module):
        named = model.named_modules()
        self.matrices = {name: module for name, module in named if isinstance(module, CodedMatrix)}
        self.places = {name: value.clone() for name, value in self._found()}
        self.seen: dict[str, tuple[Tensor, int]] = {}  # as they were last compared, and torch's count of changes then

    def step(self) -> None:
        """A `UserError` if a place has changed since this object was made."""
        for name, value in self._found():
            before, version = self.seen.get(name, (None, 0))
            if before is value and version == value._version:
                continue
            if not torch.equal(value.to(self.places[name].device), self.places[name]):
                raise UserError(f"{name} changed in a training step: codes are not where compression had put them")
            self.seen[name] = value, value._version  # written to, as DDP does, but not changed

    def _found(self) -> Iterator[tuple[str, Tensor]]:
        for name, matrix in self.matrices.items():
            places = {"index": matrix.index, "offsets": matrix.offsets}
            yield from ((f"{name}.{key}", value) for key, value in places.items() if value is not None)


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
