"""Timing with cold caches: before every call a buffer larger than the last cache level is written.

That evicts everything, the weights of the engine as well as the code that runs it, as when other work comes between
two chunks of a stream. A call of no weight follows before the clock starts, so that Python's own way to an engine is
warm again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dirnet.deploy.timing import Engine, Timing, clock_for
from dirnet.progress import progress

CALLS = 50  # per engine: each costs a walk through the buffer
_LEAST = 32 << 20  # bytes, where the system does not tell its caches
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Eviction:
    """A buffer of twice the last cache level; `evict()` writes every line of it."""

    def __init__(self, size: int | None = None):
        self.buffer = np.zeros((2 * last_level_bytes() if size is None else size) // 8, dtype=np.uint64)
        self._idle = Engine("idle", 1, 1.0, _Idle(), [torch.zeros(1)])

    def evict(self) -> None:
        """Add one to everything in the buffer, then warm up the way to an engine."""
        self.buffer += 1
        self._idle.call(time.thread_time)


class _Idle:
    """A runner without weights."""

    def initial_states(self):
        return []

    def prepare(self, window, states):
        pass

    def compute(self):
        pass

    def results(self):
        return torch.empty(0), []


def last_level_bytes() -> int:
    """Size of the largest cache that this system tells of, at least 32 MiB."""
    sizes = [_LEAST]
    for path in _CACHES.glob("index*/size"):
        text = path.read_text().strip()
        number = text.rstrip("KMG")
        if number.isdigit():
            sizes.append(int(number) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0))
    return max(sizes)


def in_cold_cache(engines: Sequence[Engine], seconds: float, threads: int, eviction: Eviction) -> dict[int, Timing]:
    """At most CALLS calls of every engine, no more than `seconds` of audio, one after the other; keyed by `id`."""
    name, clock = clock_for(threads)
    calls: dict[int, list[tuple[float, float]]] = {id(engine): [] for engine in engines}
    for engine in engines:
        engine.call(clock)
    for turn in progress(range(CALLS), CALLS, "measure cold", "turn"):
        for engine in engines:
            if turn == 0 or turn * engine.chunk * engine.frame_ms < seconds * 1000:
                eviction.evict()
                calls[id(engine)].append(engine.call(clock))
    return {id(engine): engine.timing(calls[id(engine)], name, "cold") for engine in engines}
