"""Timing several engines fairly: pinned to cores, warmed up, in turns, with percentiles."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy.runtime import muted, portable_lib
from dirnet.progress import progress
from dirnet.provenance import cpu_name, package_version

WARM_UP_CALLS = 5
_PERCENTILES = {"min": 0, "p50": 50, "p95": 95}
TURN_SECONDS = 0.2  # audio an engine works through before the next one has its turn


Clock = Callable[[], float]


class Runner(Protocol):
    """What an engine drives: a `Program`, an `OnnxModel`."""

    def initial_states(self) -> list[Any]: ...
    def prepare(self, window: Tensor, states: Sequence[Any]) -> None: ...
    def compute(self) -> None: ...
    def results(self) -> tuple[Tensor, list[Any]]: ...


@dataclass
class Engine:
    """`runner` fed with `windows` in turn, `chunk` outputs of `frame_ms` of audio each; states go round.

    dtype: of the weights, fp32 or int8; weight_bytes: how many bytes they have, None where that is unknown. features:
    (frames, size) that the windows were cut from, for a runner in another process or place.
    """

    name: str
    chunk: int
    frame_ms: float
    runner: Runner
    windows: list[Tensor]
    dtype: str = "fp32"
    weight_bytes: int | None = None
    calls: int = 0
    states: list[Any] = field(default_factory=list)
    features: Tensor | None = None

    def call(self, clock: Clock) -> tuple[float, float]:
        """Seconds by `clock` and by the wall of one call: hand over the inputs and run, not fetch the results."""
        states = self.states or self.runner.initial_states()
        window = self.windows[self.calls % len(self.windows)]
        wall, began = time.perf_counter(), clock()
        self.runner.prepare(window, states)
        self.runner.compute()
        elapsed, wall = clock() - began, time.perf_counter() - wall
        self.states = self.runner.results()[1]
        self.calls += 1
        return elapsed, wall

    def timing(self, calls: Sequence[tuple[float, float]], clock: str, cache: str) -> Timing:
        """What the seconds of these `calls` tell."""
        elapsed, wall = np.array(calls).T
        kind = (self.dtype, cache, self.weight_bytes)
        return Timing(self.name, self.chunk, self.frame_ms, elapsed, clock, float(wall.sum()), *kind)


@dataclass(frozen=True)
class Timing:
    """Seconds of every call of an engine by the clock `clock` (`cpu` or `wall`), and by the wall altogether.

    cache: `hot`, or `cold` where other data went through the caches before every call.
    """

    engine: str
    chunk: int
    frame_ms: float
    calls: np.ndarray
    clock: str
    wall_s: float
    dtype: str = "fp32"
    cache: str = "hot"
    weight_bytes: int | None = None

    def us(self, percentile: float = 50) -> float:
        """Microseconds per output frame at a percentile of the calls."""
        return float(np.percentile(self.calls, percentile)) * 1e6 / self.chunk

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; latency is of one call, a chunk."""
        audio, elapsed = len(self.calls) * self.chunk * self.frame_ms / 1000, float(self.calls.sum())
        return {
            "engine": self.engine,
            "dtype": self.dtype,
            "chunk": self.chunk,
            "cache": self.cache,
            "weight_bytes": self.weight_bytes,
            "calls": len(self.calls),
            "audio_s": audio,
            "clock": self.clock,
            "elapsed_s": elapsed,
            "rtf": elapsed / audio,
            "rtf_p50": self.us() / 1000 / self.frame_ms,
            "wall_s": self.wall_s,
            "us_per_frame": {name: self.us(at) for name, at in _PERCENTILES.items()},
            "us_per_call": {name: self.us(at) * self.chunk for name, at in _PERCENTILES.items()},
        }


def clock_for(threads: int) -> tuple[str, Clock]:
    """One thread is timed by its own CPU clock, so that waiting for a busy core does not count; more by the wall."""
    return ("cpu", time.thread_time) if threads == 1 else ("wall", time.perf_counter)


def in_turns(engines: Sequence[Engine], seconds: float, threads: int = 1) -> dict[int, Timing]:
    """Every engine through `seconds` of audio, in short turns one after the other; the result is keyed by `id`.

    Within a turn of TURN_SECONDS of audio an engine has the caches to itself, and its first call does not count: they
    are as hot as they stay between the chunks of one stream.
    """
    name, clock = clock_for(threads)
    for engine in engines:
        for _ in range(WARM_UP_CALLS):
            engine.call(clock)
    left = {id(e): max(1, math.ceil(seconds * 1000 / (e.chunk * e.frame_ms))) for e in engines}
    calls: dict[int, list[tuple[float, float]]] = {id(engine): [] for engine in engines}
    collecting = gc.isenabled()
    gc.disable()
    try:
        rounds = max((math.ceil(left[id(e)] / _turn(e)) for e in engines), default=0)
        for _ in progress(range(rounds), rounds, "measure", "turn"):
            for engine in engines:
                turn = min(left[id(engine)], _turn(engine))
                left[id(engine)] -= turn
                if not turn:
                    continue
                engine.call(clock)  # the turn's first call fills the caches again
                calls[id(engine)] += [engine.call(clock) for _ in range(turn)]
    finally:
        if collecting:
            gc.enable()
    return {id(engine): engine.timing(calls[id(engine)], name, "hot") for engine in engines}


def _turn(engine: Engine) -> int:
    """Calls of one turn."""
    return math.ceil(TURN_SECONDS * 1000 / (engine.chunk * engine.frame_ms))


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[list[int] | None]:
    """Keep this process on `threads` cores and ExecuTorch's pool at that size; yields the cores (None: cannot pin).

    Load programs inside: XNNPACK keeps the pool it saw first and hangs when that one is gone.
    """
    runtime = portable_lib()
    torch_threads = torch.get_num_threads()
    can_pin = hasattr(os, "sched_setaffinity")
    allowed = sorted(os.sched_getaffinity(0)) if can_pin else []
    cores = allowed[-threads:] if can_pin else None
    try:
        if can_pin:  # first, as new threads inherit it
            os.sched_setaffinity(0, cores)
        if runtime._threadpool_get_thread_count() != threads:
            with muted():
                runtime._unsafe_reset_threadpool(threads)
        torch.set_num_threads(threads)
        yield cores
    finally:
        if can_pin:
            os.sched_setaffinity(0, allowed)
        torch.set_num_threads(torch_threads)


def machine() -> dict[str, Any]:
    """Processor, cores, load and library versions of this host."""
    packages = ("torch", "executorch", "onnxruntime", "numpy")
    versions = {name: version for name in packages if (version := package_version(name))}
    return {
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions | {"python": platform.python_version()},
    }
