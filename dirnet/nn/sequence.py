"""What a cell builds once a sequence: its factors, kept with the hidden state that they gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

Chains = list[list[Tensor]]  # what each vector is multiplied by, one matrix after the other


class Sequences:
    """The factors of the step that gave a hidden state, for the step that goes on from it.

    To go on is to be given the very tensor that the last step returned, still attached to its graph: one backward pass
    then goes through both steps, and spreads the gradient of the factors over D and Z once. Factors live as long as the
    state, and are not used once a parameter or buffer was replaced, changed in place, moved, cast, frozen or unfrozen,
    or gradients or casts were switched. (A change of values by way of `.data` in the middle of a sequence is not seen.)
    Copies, files and compiled graphs know no states.
    """

    def __init__(self) -> None:
        self._steps: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __reduce__(self):
        return Sequences, ()

    def factors_before(self, hidden: Tensor, weights: nn.Module) -> Chains | None:
        """What gave `hidden`, if it would be the same today; else None."""
        if torch.compiler.is_compiling() or hidden not in self._steps:
            return None
        factors, then = self._steps[hidden]
        return factors if then.is_like(_Circumstances.of(hidden, weights)) else None

    def keep(self, hidden: Tensor, weights: nn.Module, factors: Chains) -> None:
        """`factors`, made of `weights`, gave `hidden`."""
        if not torch.compiler.is_compiling():
            self._steps[hidden] = factors, _Circumstances.of(hidden, weights)


@dataclass(frozen=True, eq=False)
class _Circumstances:
    tensors: list[Tensor]
    facts: list[tuple[Any, ...]]

    @classmethod
    def of(cls, hidden: Tensor, weights: nn.Module) -> _Circumstances:
        tensors = [*weights.parameters(), *weights.buffers()]
        facts = [(_version(tensor), tensor.dtype, tensor.device, tensor.requires_grad) for tensor in tensors]
        kind = hidden.device.type
        casting = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        cast = torch.get_autocast_dtype(kind) if casting else None
        modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), hidden.is_leaf, cast)
        return cls(tensors, [*facts, modes])

    def is_like(self, other: _Circumstances) -> bool:
        same = self.facts == other.facts  # of equal length, then
        return same and all(one is another for one, another in zip(self.tensors, other.tensors, strict=True))


def _version(tensor: Tensor) -> int:
    """How often `tensor` was changed in place; one made in inference mode has none, and only that mode changes it."""
    return 0 if tensor.is_inference() else tensor._version
