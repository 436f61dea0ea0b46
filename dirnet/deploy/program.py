"""A deployed acoustic model: load an exported `.pte`, read what it says about itself, run it as a stream."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirnet.deploy import certificate, library, metadata
from dirnet.deploy.runtime import portable_lib
from dirnet.deploy.structure import read_structure
from dirnet.errors import UserError


class Program:
    """An exported acoustic model in ExecuTorch's runtime.

    `metadata` holds its constant methods (`sample_rate`, `phones`, ...). `path` is a file whose sha256 stands in the
    `.json` beside it, `content` the bytes of a program not written yet. Damaged, foreign and too old or new programs
    are `UserError`s: ExecuTorch itself would crash on some of them.
    """

    def __init__(self, path: str | Path, content: bytes | None = None):
        self.path = Path(path)
        self.content = certificate.read_program(self.path) if content is None else content
        structure = read_structure(self.content, self.path)
        if not {"forward", "dirnet_version"} <= set(structure.methods):
            raise UserError(f"{self.path} was not written by dirnet.deploy.export; export the model again")
        runtime = portable_lib()
        try:
            program = _mapped(runtime, self.content)
            self.metadata: dict[str, Any] = {
                name: _constant(program.load_method(name)) for name in sorted(structure.methods) if name != "forward"
            }
            metadata.check(self.metadata, self.path)
            if self.metadata["backend"] == "dirnet":
                library.load()
            if lacking := structure.operators - set(runtime._get_operator_names()):
                raise UserError(f"{self.path} calls {', '.join(sorted(lacking))}, unknown to this ExecuTorch; "
                                "export it again")  # fmt: skip
            self._program, self._method = program, program.load_method("forward")
        except RuntimeError as error:
            raise UserError(f"{self.path} does not load in this ExecuTorch ({error}); export the model again") from None

    def __getattr__(self, name: str) -> Any:
        """A constant of the program as an attribute."""
        if name in self.__dict__.get("metadata", {}):
            return self.metadata[name]
        raise AttributeError(f"{type(self).__name__} has no attribute or constant {name!r}")

    @property
    def sha256(self) -> str:
        """A sha256 of the whole file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def phones(self) -> list[str]:
        """Names of the outputs, the blank first."""
        return self.metadata["phones"].split()

    def initial_states(self) -> list[Tensor]:
        """Zeros: the states before the first frame of an utterance."""
        return [torch.zeros(1, int(size)) for size in self.metadata["state_sizes"]]

    def padded(self, features: Tensor, chunk: int) -> Tensor:
        """(T, size) -> the frames the calls of a whole utterance read: context at both ends, whole chunks.

        Outside the utterance is the CMVN mean, which is 0 after normalisation.
        """
        if features.dim() != 2 or features.shape[1] != self.feature_size or not len(features):
            raise UserError(f"features are {list(features.shape)}, expected (frames, {self.feature_size})")
        missing = -len(features) % (chunk * self.stride)
        mean = self.metadata["cmvn_mean"]
        return torch.cat([mean.expand(self.context, -1), features, mean.expand(missing + self.context, -1)])

    def window(self, padded: Tensor, first: int, frames: int) -> Tensor:
        """The part of `padded` that a call for outputs `first : first + frames` reads."""
        start = first * self.stride
        return padded[start : start + frames * self.stride + 2 * self.context].contiguous()

    def prepare(self, window: Tensor, states: Sequence[Tensor]) -> None:
        """Hand over the inputs of the next `compute`: frames with their context, and the states."""
        self._method.set_inputs([window, *states])

    def compute(self) -> None:
        """Run what `prepare` handed over. Together they are what a call costs a program without Python."""
        self._method.execute()

    def results(self) -> tuple[Tensor, list[Tensor]]:
        """Logits (T, outputs) and the next states of the last `compute`."""
        logits, *states = self._method.get_outputs()
        return logits, states

    def step(self, window: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One call: `prepare`, `compute`, `results`."""
        self.prepare(window, states)
        self.compute()
        return self.results()

    def stream(self, features: Tensor, chunks: Sequence[int] | int | None = None) -> Tensor:
        """Logits (ceil(T / stride), outputs) of an utterance (T, size), run in chunks of that many outputs.

        A list of chunks is gone through once and its last one repeated.
        """
        sizes = [chunks or self.chunk] if not isinstance(chunks, (list, tuple)) else list(chunks)
        outputs = -(-len(features) // self.stride)
        padded = self.padded(features, max(sizes))
        states, logits, first = self.initial_states(), [], 0
        while first < outputs:
            frames = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            y, states = self.step(self.window(padded, first, frames), states)
            logits.append(y)
            first += frames
        return torch.cat(logits)[:outputs]


def _mapped(runtime: Any, content: bytes) -> Any:
    """The program loaded from a file, which ExecuTorch maps as a phone's runner does: weights lie where they should.

    In the bytes object they would straddle cache lines, which costs a quarter of the time.
    """
    with tempfile.NamedTemporaryFile(suffix=".pte") as file:  # what is mapped stays when the name goes
        file.write(content)
        file.flush()
        # Verification.InternalConsistency is not built into every wheel; the checks of the structure are ours.
        return runtime._load_program(file.name, program_verification=runtime.Verification.Minimal)


def _constant(method: Any) -> Any:
    value = method([])
    return value[0].clone() if isinstance(value[0], Tensor) else value[0]
