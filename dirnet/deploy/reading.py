"""A pure read of as many bytes as a program's weights: no engine that looks at all of them can be faster.

Timed in turns with the engines, it is fed by whichever cache level holds that many bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy import library

UNIT = {library.SOURCES / "read.cpp": ("-march=native",)}


class Reader:
    """A `Runner` whose `compute` sums a buffer of `size` bytes (whole words); `total` is the last sum modulo 2^32."""

    def __init__(self, size: int):
        self.values = np.random.default_rng(0).integers(0, 2**32, max(size // 4, 1), dtype=np.uint32)
        self._sum = _function()
        self._arguments = self.values.ctypes.data, len(self.values)
        self.total = 0

    def prepare(self, window: Tensor, states: Sequence[Any]) -> None:
        """Nothing is handed over."""

    def compute(self) -> None:
        """Read everything once."""
        self.total = self._sum(*self._arguments)

    def results(self) -> tuple[Tensor, list[Any]]:
        """No logits, no states."""
        return torch.empty(0), []

    def initial_states(self) -> list[Any]:
        """None are needed."""
        return []


def _function() -> Any:
    """`dirnet_read` of the compiled UNIT; without a compiler a `UserError`."""
    read = ctypes.CDLL(str(library.compiled("dirnet_read", UNIT))).dirnet_read
    read.restype, read.argtypes = ctypes.c_uint32, (ctypes.c_void_p, ctypes.c_size_t)
    return read
