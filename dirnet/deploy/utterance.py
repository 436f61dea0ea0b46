"""One utterance through a program while its frames are still coming."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.deploy.program import Program


class Utterance:
    """`push(features (t, size)) -> logits (outputs, phones)` as soon as their context is there; `finish()`: the rest.

    All logits together are those of `Program.stream` over the whole utterance, with its padding at both ends. A program
    that takes any number of outputs per call is given all there are, one of a fixed number waits until it has them.
    """

    def __init__(self, program: Program):
        self._program, self._states = program, program.initial_states()
        self._least = program.chunk if program.max_chunk == program.chunk else 1
        self._window = program.cmvn_mean.expand(program.context, -1)
        self._frames = self._outputs = 0

    @property
    def frames_ahead(self) -> int:
        """Frames that must follow the one at the centre of an output before `push` gives it; at most, in a call."""
        return self._least * self._program.stride - 1 + self._program.context

    def push(self, features: Tensor) -> Tensor:
        self._frames += len(features)
        return self._advance(features)

    def finish(self) -> Tensor:
        program, before = self._program, self._outputs
        missing = -self._frames % (self._least * program.stride)
        logits = self._advance(program.cmvn_mean.expand(missing + program.context, -1))
        return logits[: -(-self._frames // program.stride) - before]

    def _advance(self, features: Tensor) -> Tensor:
        program = self._program
        self._window = torch.cat([self._window, features])
        logits = [torch.zeros(0, len(program.phones))]
        while (ready := (len(self._window) - 2 * program.context) // program.stride) >= self._least:
            outputs = min(ready, program.max_chunk)
            y, self._states = program.step(program.window(self._window, 0, outputs), self._states)
            self._window = self._window[outputs * program.stride :]
            self._outputs += outputs
            logits.append(y)
        return torch.cat(logits)
