"""A pure read of as many bytes as a program's weights: no engine that looks at all of them can be faster.

Timed in turns with the engines, it is fed by whichever cache level holds that many bytes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy import library
from dirnet.errors import UserError
from dirnet.provenance import cpu_name

SOURCE = library.SOURCES / "read.cpp"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-Wall", "-Wextra")


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
    """`dirnet_read` of the compiled SOURCE; without a compiler a `UserError`."""
    read = ctypes.CDLL(str(_build())).dirnet_read
    read.restype, read.argtypes = ctypes.c_uint32, (ctypes.c_void_p, ctypes.c_size_t)
    return read


def _build() -> Path:
    compiler = library.find_compiler()
    told = "\0".join([compiler, *_FLAGS, cpu_name(), platform.machine(), SOURCE.read_text(encoding="utf-8")])
    path = library.cache_folder() / f"dirnet_read-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        done = subprocess.run([compiler, *_FLAGS, str(SOURCE), "-o", str(fresh)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{compiler} cannot build {SOURCE}: {(done.stderr.splitlines() or ['no message'])[0]}")
        os.replace(fresh, path)
    return path
