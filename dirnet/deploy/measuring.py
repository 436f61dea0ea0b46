"""Measures exported programs and, in turns with them, every other way to run the dense model they come from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirnet.deploy import cold, comparison, runner, timing
from dirnet.deploy.comparison import Reads
from dirnet.deploy.engines import dense_engines, program_engine, reader_engine
from dirnet.deploy.export import speech_like
from dirnet.deploy.program import Program
from dirnet.deploy.timing import Engine, Timing
from dirnet.errors import UserError
from dirnet.nn import storage

CHUNKS, CACHES = (1, 8, 16, 32), ("hot", "cold")


@dataclass(frozen=True)
class Settings:
    """How to measure: `seconds` of audio per engine, `chunks` outputs per call beside a program's own.

    caches: of CACHES, one pass each. stock_chunks: outputs per call of dense XNNPACK programs. target: where the C++
    runner times the programs; None: here, called from Python.
    """

    seconds: float = 20.0
    threads: int = 1
    chunks: Sequence[int] = (1,)
    caches: Sequence[str] = ("hot",)
    stock_chunks: Sequence[int] = (1,)
    target: runner.Target | None = None


def measure(
    folders: Sequence[Path], baseline: Path | None, features: Tensor | None, settings: Settings
) -> dict[Path, dict[str, Any]]:
    """The result of every program in `folders` (each a folder with encoder.pte, or a .pte), in their order.

    The dense engines of `baseline` (default: the first dense folder that holds its neutral model) are measured too.
    features: (frames, size), by default noise with the statistics of each model's CMVN.
    """
    target, threads = settings.target, settings.threads
    local = target is None or target.local
    with timing.pinned(threads if local else 1) as cores:
        programs = {folder: _program(folder) for folder in folders}
        baseline = _baseline(programs, baseline)
        engines: dict[Path, list[Engine]] = {}
        for folder, program in programs.items():
            own, fixed = _features(program, features), program.max_chunk == program.chunk
            sizes = [program.chunk] if fixed else sorted({*settings.chunks, program.chunk})
            engines[folder] = [program_engine(program, chunk, own) for chunk in sizes]
            if folder == baseline:
                has = {(engine.name, engine.dtype, engine.chunk) for engine in engines[folder]}
                sizes = settings.chunks, settings.stock_chunks
                engines[folder] += dense_engines(storage.load(folder), own, *sizes, threads, has, local)
        readers = _readers(programs, engines) if local else {}
        every = [*(engine for own in engines.values() for engine in own), *readers.values()]
        timings = [_pass(every, cache, settings) for cache in settings.caches]
        machine = timing.machine() | {"cores": cores} if target is None else {"device": target.name} | target.machine()
    reads = {(size, t[id(reader)].cache): t[id(reader)] for size, reader in readers.items() for t in timings}
    dense = [t[id(engine)] for t in timings for engine in engines[baseline]] if baseline else []
    longest = max(program.chunk for program in programs.values())
    results = {}
    for folder, program in programs.items():
        rows = [t[id(engine)] for t in timings for engine in engines[folder]]
        # A dense baseline is as fast as its fastest engine; anything else is the program that was exported.
        own = [row for row in rows if row.cache == rows[0].cache]
        if folder == baseline:
            best = min((row for row in own if row.dtype == "fp32" and row.chunk <= longest), key=Timing.us)
        else:
            best = next(row for row in own if row.chunk == program.chunk)
        results[folder] = _result(program, best, rows, dense, reads, str(baseline)) | machine | {"threads": threads}
    return results


def _pass(engines: Sequence[Engine], cache: str, settings: Settings) -> dict[int, Timing]:
    """All engines with the caches in one state."""
    if settings.target is not None:
        return runner.in_turns(engines, settings.seconds, settings.threads, settings.target)
    if cache == "hot":
        return timing.in_turns(engines, settings.seconds, settings.threads)
    return cold.in_cold_cache(engines, settings.seconds, settings.threads, cold.Eviction())


def _readers(programs: dict[Path, Program], engines: dict[Path, list[Engine]]) -> dict[int, Engine]:
    """A pure read for every size that the weights of a program have; without a compiler none, and a line says so."""
    sizes = {engine.weight_bytes for own in engines.values() for engine in own if engine.runner in programs.values()}
    frame_ms = next(iter(engines.values()))[0].frame_ms
    try:
        return {size: reader_engine(size, frame_ms) for size in sorted(sizes - {None})}
    except UserError as error:
        print(f"no pure read beside the engines: {error}", file=sys.stderr)
        return {}


def _baseline(programs: dict[Path, Program], wanted: Path | None) -> Path | None:
    """The folder of the dense model to compare with: `wanted`, or the first that can be; None without any."""
    dense = [f for f, p in programs.items() if not p.compressed and (f / storage.WEIGHTS).exists()]
    if wanted is not None and wanted not in dense:
        raise UserError(f"baseline {wanted} is not among the dense models compared; give one of: "
                        f"{', '.join(map(str, dense)) or 'none is'}")  # fmt: skip
    return wanted or next(iter(dense), None)


def _result(
    program: Program, own: Timing, rows: list[Timing], dense: list[Timing], reads: Reads, baseline: str
) -> dict[str, Any]:
    """What `rtf.json` tells of one model."""
    result = {
        "model": program.name,
        "program": str(program.path),
        "sha256": program.sha256,
        "model_sha256": program.model_sha256,
        "bytes": len(program.content),
        "params": program.params,
        "device": "host",
        "timed": "acoustic model without MFCC: set inputs + execute",
        "engines": [comparison.row(row, dense, reads) for row in rows],
        **comparison.row(own, dense, reads),
    }
    return result | ({"baseline": baseline} if dense else {})


def _program(folder: Path) -> Program:
    """The program `folder`, or the one in it; `encoder.pte` must be of the model beside it, if there is one."""
    if folder.is_file() and folder.suffix != ".pte":
        raise UserError(f"{folder} is no exported program, expected a .pte; write one with `dirnet export`")
    program = Program(folder if folder.suffix == ".pte" else folder / "encoder.pte")
    beside = program.path.parent
    known = program.path.name == "encoder.pte" and (beside / storage.DESCRIPTION).exists()
    if known and program.model_sha256 != storage.describe(beside)["sha256"]:
        raise UserError(f"{program.path} is of another model than {beside / storage.WEIGHTS}; export the model again")
    return program


def _features(program: Program, features: Tensor | None) -> Tensor:
    """The user's features, or four seconds that look like speech; the kernels take the same time for both."""
    if features is None:
        return speech_like(program.cmvn_mean, program.cmvn_istd, 400)
    if features.dim() != 2 or features.shape[1] != program.feature_size or not torch.isfinite(features).all():
        raise UserError(f"--feats holds {list(features.shape)}, expected finite (frames, {program.feature_size}) MFCC; "
                        "save such an array with numpy.save")  # fmt: skip
    return features
