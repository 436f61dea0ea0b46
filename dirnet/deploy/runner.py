"""The C++ runner of exported programs, `csrc/runner`: what a phone runs, here as a library on ExecuTorch's wheel.

    python -m dirnet.deploy.runner --program encoder.pte --features feats.npy      # its own options: --help

Whatever runs it, it prints the same JSON. A `Target` is a place for it to run: `Host` here, `phone.Phone` over adb.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy import library, timing
from dirnet.deploy.parity import disparity
from dirnet.deploy.program import Program
from dirnet.deploy.runtime import portable_lib
from dirnet.deploy.timing import Engine, Timing
from dirnet.errors import UserError, one_line_errors

SOURCES = library.SOURCES / "runner"
FLAGS = ("-fvisibility=hidden", "-Wno-unused-parameter")  # beside those of library.FLAGS
MODEL, FEATURES, LOGITS, RESULT = "model.pte", "features.npy", "logits", "result.json"
MIN_CALLS = 1000
TURNS = 4
TIMEOUT_S = 600  # of one run: minutes even for a large model on a slow phone
_HEADER = "include/executorch/runtime/executor/program.h"
_REPORTED = ("bytes", "verification", "load_ms", "peak_rss_bytes")


def build() -> Path:
    """Path of the runner's shared library for the installed ExecuTorch; compiles in a few seconds if not cached."""
    wheel, version = library.executorch_folder(), importlib.metadata.version("executorch")
    if not (wheel / _HEADER).exists() and not version.startswith("1.2."):  # whose classes csrc/runner/executor.h knows
        raise UserError(f"executorch {version} has no headers of its executor, expected 1.2 or from 1.4 on; time with "
                        "--engine python, or build the runner with CMake and give it as --runner")  # fmt: skip
    return library.compiled("dirnet_runner", {source: FLAGS for source in sorted(SOURCES.glob("*.cpp"))})


class Target(Protocol):
    """A place where the runner runs. name: as in `--device`; local: whether it is this host."""

    name: str
    local: bool

    def machine(self) -> dict[str, Any]:
        """What `rtf.json` tells of it: `cpu` at least."""

    def run(self, program: Program, features: Tensor, extra: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
        """The runner's JSON and the logits of its first pass, after a run with the options `extra`."""


@dataclass(frozen=True)
class Host:
    """This host. `program`: a `dirnet_runner` that the user built; None: the library of `build`, in this process."""

    program: Path | None = None
    name: str = "host"
    local: bool = True

    def __enter__(self) -> Host:
        if self.program is None:
            build()  # before the work
        elif not os.access(self.program, os.X_OK) or self.program.is_dir():
            raise UserError(f"--runner {self.program} is no program; build one with CMake from {SOURCES}")
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left behind."""

    def machine(self) -> dict[str, Any]:
        return timing.machine()

    def run(self, program: Program, features: Tensor, extra: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            stage(Path(folder), program, features)
            files = {file: str(Path(folder) / file) for file in (MODEL, FEATURES, LOGITS, RESULT)}
            words = [*options(files), *extra]
            problem = call(words) if self.program is None else self._problem(words)
            if problem is not None:
                raise UserError(f"{program.name}: {problem}")
            report, logits = read(Path(folder))
        if self.program is None:
            del report["peak_rss_bytes"]  # Python's and torch's
        return report, logits

    def _problem(self, words: list[str]) -> str | None:
        try:
            command = [self.program.absolute(), *words]
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"the runner did not end in {TIMEOUT_S} s; time less with --seconds"
        except OSError as error:
            return f"--runner {self.program} does not run here ({error.strerror}); build it without a toolchain file"
        return last_line(result.stderr) or f"the runner ended with {result.returncode}" if result.returncode else None


def stage(folder: Path, program: Program, features: Tensor) -> None:
    """Write what the runner reads into `folder`: MODEL and FEATURES."""
    (folder / MODEL).write_bytes(program.content)
    np.save(folder / FEATURES, features.numpy().astype("<f4"))


def options(files: dict[str, str]) -> list[str]:
    """The runner's options for its four files; `files`: the path of each of MODEL, FEATURES, LOGITS, RESULT."""
    names = {"--program": MODEL, "--features": FEATURES, "--logits": LOGITS, "--out": RESULT}
    return [word for option, name in names.items() for word in (option, files[name])]


def read(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The runner's JSON and logits from `folder`; a `UserError` unless both are whole."""
    try:
        report = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return report, np.fromfile(folder / LOGITS, dtype="<f4").reshape(report["logits"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the runner left no whole result ({error}); is it of this version of dirnet?") from None


def last_line(text: str) -> str:
    """The last line of `text` that says something, without the runner's own "error:"."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return line.strip().removeprefix("dirnet_runner: error: ")


@dataclass(frozen=True)
class RunnerTiming(Timing):
    """A `Timing` by the runner; `report`: what it told beside the times of the calls."""

    report: dict[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        return super().to_mapping() | self.report


def in_turns(engines: Sequence[Engine], seconds: float, threads: int, target: Target) -> dict[int, Timing]:
    """`timing.in_turns` by the runner on `target`, MIN_CALLS calls at least; what is no program is timed in Python.

    Logits that differ from those of the program on this host by more than the export's tolerance are a `UserError`.
    """
    programs = [engine for engine in engines if isinstance(engine.runner, Program)]
    others = [engine for engine in engines if not isinstance(engine.runner, Program)] if target.local else []
    reports: dict[int, list[dict[str, Any]]] = {id(engine): [] for engine in programs}
    parity: dict[int, float] = {}
    other_turns: list[dict[int, Timing]] = []
    for _ in range(TURNS):
        for engine in programs:
            calls = max(MIN_CALLS, seconds * 1000 / (engine.chunk * engine.frame_ms))
            counts = {"chunk": engine.chunk, "calls": math.ceil(calls / TURNS), "threads": threads}
            words = [word for name, value in counts.items() for word in (f"--{name}", str(value))]
            report, logits = target.run(engine.runner, engine.features, words)
            if id(engine) not in parity:
                parity[id(engine)] = check(engine, torch.from_numpy(logits), target.name)
            reports[id(engine)].append(report)
        if others:
            other_turns.append(timing.in_turns(others, seconds / TURNS, threads))
    timings = {id(engine): _pooled(engine, reports[id(engine)], parity[id(engine)]) for engine in programs}
    for engine in others:
        turns = [turn[id(engine)] for turn in other_turns]
        calls, wall = np.concatenate([turn.calls for turn in turns]), sum(turn.wall_s for turn in turns)
        timings[id(engine)] = replace(turns[0], calls=calls, wall_s=wall)
    return timings


def check(engine: Engine, logits: Tensor, where: str) -> float:
    """How far `logits` are from this host's (`parity.disparity`); a `UserError` above the tolerance."""
    expected = engine.runner.stream(engine.features, engine.chunk)
    if logits.shape != expected.shape:
        raise UserError(f"{engine.runner.name} gave {list(logits.shape)} logits on {where}, {list(expected.shape)} on "
                        "this host; is the runner of this version of dirnet?")  # fmt: skip
    apart, limit = disparity(expected.log_softmax(-1), logits.log_softmax(-1), engine.runner.dtype)
    if not apart <= limit:  # NaN is refused too
        raise UserError(f"{engine.runner.name} in chunks of {engine.chunk} differs by {apart:.2g} on {where} from "
                        f"this host, expected at most {limit:g}; build the runner from this version of dirnet, "
                        "without -ffast-math")  # fmt: skip
    return apart


def _pooled(engine: Engine, reports: list[dict[str, Any]], parity: float) -> RunnerTiming:
    """All turns of an engine as one timing; what changes over time is told of the first and the last."""
    calls = np.concatenate([report["call_us"] for report in reports]) / 1e6
    told = {name: reports[0][name] for name in _REPORTED if name in reports[0]}
    told |= {"called_from": "C++", "cores": reports[0]["cores"], "parity": parity}
    told |= {"before": reports[0]["before"], "after": reports[-1]["after"]}
    wall = sum(report["wall_s"] for report in reports)
    kind = {"dtype": engine.dtype, "weight_bytes": engine.weight_bytes, "report": told}
    return RunnerTiming(engine.name, engine.chunk, engine.frame_ms, calls, reports[0]["clock"], wall, **kind)


def call(words: Sequence[str]) -> str | None:
    """Run the library's command line in this process; returns what the user did wrong, None when all went well."""
    portable_lib()
    library.load()
    runner = ctypes.CDLL(str(build())).dirnet_runner
    runner.restype = ctypes.c_char_p
    arguments = [b"dirnet_runner", *map(os.fsencode, words)]
    problem = runner(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
    return None if problem is None else problem.decode(errors="replace")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The runner's command line, timing in C++ in this process."""
    if (problem := call(sys.argv[1:] if argv is None else argv)) is not None:
        raise UserError(problem)
    return 0


if __name__ == "__main__":
    main()
