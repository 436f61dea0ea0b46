"""What a cell builds once a sequence: its factors, kept with the hidden state that they gave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary


class Sequences:
    """The factors of the step that gave a hidden state, for the step that goes on from it.

    To go on is to be given the very tensor that the last step returned, still attached to its graph: one backward pass
    then goes through both steps, and spreads the gradient of the factors over D and Z once. Factors live as long as the
    state, and are not used once a parameter was replaced or changed in place, or gradients or casts were switched. (A
    change by way of `.data` in the middle of a sequence is not seen.) Copies, files and compiled graphs know no states.
    """

    def __init__(self) -> None:
        self._steps: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __reduce__(self):
        return Sequences, ()

    def factors_before(self, hidden: Tensor, weights: nn.Module) -> list[list[Tensor]] | None:
        """What gave `hidden`, if it would be the same today; else None."""
        if torch.compiler.is_compiling():
            return None
        step = self._steps.get(hidden)
        return step.factors if step and step.is_like(_Step.of(hidden, weights)) else None

    def keep(self, hidden: Tensor, weights: nn.Module, factors: list[list[Tensor]]) -> None:
        """`factors`, made of `weights`, gave `hidden`."""
        if not torch.compiler.is_compiling():
            self._steps[hidden] = _Step.of(hidden, weights, factors)


@dataclass(frozen=True, eq=False)
class _Step:
    factors: list[list[Tensor]] | None
    parameters: list[Tensor]
    circumstances: list[int | bool]

    @classmethod
    def of(cls, hidden: Tensor, weights: nn.Module, factors: list[list[Tensor]] | None = None) -> _Step:
        parameters = list(weights.parameters())
        # Tensors made in inference mode have no version, and only that mode may change them.
        versions = [0 if parameter.is_inference() else parameter._version for parameter in parameters]
        device = hidden.device.type
        casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        modes = [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), hidden.is_leaf, casts]
        return cls(factors, parameters, versions + modes)

    def is_like(self, other: _Step) -> bool:
        same = len(self.parameters) == len(other.parameters) and self.circumstances == other.circumstances
        return same and all(one is another for one, another in zip(self.parameters, other.parameters, strict=True))
