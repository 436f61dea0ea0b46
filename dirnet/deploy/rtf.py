"""Stage 8: real-time factor of exported models, on this host through ExecuTorch's own runtime.

    python -m dirnet.deploy.rtf --model exp/dirnet_7.9x/encoder.pte --out exp/dirnet_7.9x/rtf.json
    python -m dirnet.deploy.rtf --compare exp/smbr exp/svd_7.9x exp/dirnet_7.9x [--baseline exp/smbr]

The second form measures all models and every dense engine at hand, fp32 and int8, in turns in one process, so that a
busy moment hits all alike, and tells each model's speed-up over the *fastest* dense fp32 and the fastest dense int8
engine that work in chunks no longer than its own, and its time over that of a pure read of its weights.
Timed is the acoustic model without MFCC: handing over a chunk and running it, not Python's copying of results;
with one thread by its CPU clock (what waits for a busy core is not the engine's), with more by the wall clock.
Caches are hot (an engine has them to itself for 0.2 s of audio, and its first call there does not count) or cold (a
buffer larger than the last level is written before every call). XNNPACK programs are exported for --xnnpack_chunks
only: longer ones take minutes to export, and were never the fastest, as every unrolled step keeps its own copy of the
weights in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy import adb, cold, comparison, timing
from dirnet.deploy.comparison import Reads
from dirnet.deploy.engines import dense_engines, program_engine, reader_engine
from dirnet.deploy.export import speech_like
from dirnet.deploy.lowering import MAX_FRAMES
from dirnet.deploy.program import Program
from dirnet.deploy.timing import Engine, Timing
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage

CHUNKS, CACHES = (1, 8, 16, 32), ("hot", "cold")


def measure(
    folders: Sequence[Path], baseline: Path | None, features: Tensor | None, seconds: float, threads: int,
    chunks: Sequence[int] = (1,), caches: Sequence[str] = ("hot",), stock_chunks: Sequence[int] = (1,),
) -> dict[Path, dict[str, Any]]:  # fmt: skip
    """The result of every program in `folders` (each a folder with encoder.pte, or a .pte), in their order.

    Programs run in `chunks` and their own. The dense engines of `baseline` (default: the first dense folder that holds
    its neutral model) are measured too, XNNPACK's in `stock_chunks`.
    """
    with timing.pinned(threads) as cores:
        programs = {folder: Program(_program_path(folder)) for folder in folders}
        baseline = _baseline(programs, baseline)
        engines: dict[Path, list[Engine]] = {}
        for folder, program in programs.items():
            own, fixed = _features(program, features), program.max_chunk == program.chunk
            sizes = [program.chunk] if fixed else sorted({*chunks, program.chunk})
            engines[folder] = [program_engine(program, chunk, own) for chunk in sizes]
            if folder == baseline:
                has = {(engine.name, engine.dtype, engine.chunk) for engine in engines[folder]}
                engines[folder] += dense_engines(storage.load(folder), own, chunks, stock_chunks, threads, has)
        readers = _readers(programs, engines)
        every = [*(engine for own in engines.values() for engine in own), *readers.values()]
        timings: list[dict[int, Timing]] = []
        for cache in caches:
            measured = timing.in_turns(every, seconds, threads) if cache == "hot" else (
                cold.in_cold_cache(every, seconds, threads, cold.Eviction()))  # fmt: skip
            timings.append(measured)
    machine = timing.machine() | {"threads": threads, "cores": cores}
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
        results[folder] = _result(program, best, rows, dense, reads, str(baseline)) | machine
    return results


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
        "bytes": len(program.content),
        "params": program.params,
        "device": "host",
        "timed": "acoustic model without MFCC: set inputs + execute",
        "engines": [comparison.row(row, dense, reads) for row in rows],
        **comparison.row(own, dense, reads),
    }
    return result | ({"baseline": baseline} if dense else {})


def rtf_line(result: dict[str, Any]) -> str:
    """The customary line."""
    return f"RTF = elapsed / audio = {result['elapsed_s']:.3f} / {result['audio_s']:.3f} = {result['rtf']:.5f}"


def check_threads(threads: int) -> int:
    """The number of cores of this process, if they are as many as `threads`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise UserError(f"--threads is {threads}, expected 1..{cores}, the cores of this process")
    return cores


def _program_path(folder: Path) -> Path:
    return folder if folder.suffix == ".pte" else folder / "encoder.pte"


def _features(program: Program, features: Tensor | None) -> Tensor:
    """The user's features, or four seconds that look like speech; the kernels take the same time for both."""
    if features is None:
        return speech_like(program.cmvn_mean, program.cmvn_istd, 400)
    if features.dim() != 2 or features.shape[1] != program.feature_size or not torch.isfinite(features).all():
        raise UserError(f"--feats holds {list(features.shape)}, expected finite (frames, {program.feature_size}) MFCC")
    return features


def _chunks(flag: str, text: str | None, default: Sequence[int]) -> list[int]:
    """Outputs per call from `1,8,16`."""
    values = list(default) if text is None else [int(item) if item.isdigit() else 0 for item in text.split(",")]
    if not all(1 <= value <= MAX_FRAMES for value in values):
        raise UserError(f"{flag} is {text!r}, expected outputs per call from 1 to {MAX_FRAMES} such as 1,8,16")
    return sorted(set(values))


def _caches(text: str | None, default: Sequence[str]) -> list[str]:
    """States of the caches from `hot,cold`, hot first."""
    values = list(default) if text is None else text.split(",")
    if not set(values) <= set(CACHES):
        raise UserError(f"--cache is {text!r}, expected hot, cold or hot,cold")
    return [cache for cache in CACHES if cache in values]


def _read_features(path: str | None) -> Tensor | None:
    if path is None:
        return None
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except FileNotFoundError:
        raise UserError(f"--feats {path} does not exist; give a .npy file of (frames, 26) MFCC") from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"--feats {path} is not a .npy array ({error}); save one with numpy.save") from None


def _write(results: dict[Path, dict[str, Any]], out: str | None) -> None:
    for folder, result in results.items():
        path = Path(out) if out else (folder.parent if folder.suffix == ".pte" else folder) / "rtf.json"
        with atomic_write(path) as stream:
            stream.write(json.dumps(result, indent=1) + "\n")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Time one program, or several and the dense engines in turns; write `rtf.json` and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m dirnet.deploy.rtf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="an exported program, encoder.pte")
    what.add_argument("--compare", type=Path, nargs="+", metavar="DIR",
                      help="folders with encoder.pte; writes rtf.json in each")  # fmt: skip
    parser.add_argument("--baseline", type=Path, metavar="DIR",
                        help="dense model of the comparison (default: the first)")  # fmt: skip
    parser.add_argument("--out", help="result of --model (default: rtf.json beside it)")
    parser.add_argument("--feats", help=".npy with (frames, 26) MFCC (default: noise with the CMVN statistics)")
    parser.add_argument("--device", default="host", help="host (default), adb or adb:SERIAL")
    parser.add_argument("--threads", type=int, default=1, help="cores to pin to (default 1)")
    parser.add_argument("--seconds", type=float, default=20.0, help="audio per engine (default 20)")
    parser.add_argument("--chunks", help="outputs per call, beside a program's own (default: 1; compared 1,8,16,32)")
    parser.add_argument("--cache", help="hot or hot,cold, the state of the caches (default: hot; compared both)")
    parser.add_argument("--xnnpack_chunks", default="1",
                        help="outputs per call of dense XNNPACK programs; 8 export in minutes (default 1)")  # fmt: skip
    options = parser.parse_args(argv)
    name, _, serial = options.device.partition(":")
    if name == "adb":
        device = adb.find_device(serial)
        raise UserError(f"device {device.serial} {device.model} is ready, but the phone runner is not part of this "
                        "version; measure with --device host")  # fmt: skip
    if options.device != "host":
        raise UserError(f"--device is {options.device!r}, expected host, adb or adb:SERIAL")
    cores = check_threads(options.threads)
    if not options.seconds > 0:
        raise UserError(f"--seconds is {options.seconds}, expected seconds of audio above 0")
    if options.compare and options.out:
        raise UserError("--out goes with --model; --compare writes rtf.json into every folder")
    folders = options.compare or [options.model]
    chunks = _chunks("--chunks", options.chunks, CHUNKS if options.compare else (1,))
    stock = _chunks("--xnnpack_chunks", options.xnnpack_chunks, ())
    caches = _caches(options.cache, CACHES if options.compare else ("hot",))
    features = _read_features(options.feats)
    results = measure(folders, options.baseline, features, options.seconds, options.threads, chunks, caches, stock)
    _write(results, options.out)
    if options.compare:
        print(comparison.engines_table(results), comparison.models_table(results), sep="\n\n")
    for folder, result in results.items():
        print(f"{folder}: {rtf_line(result)}")
    load = next(iter(results.values()))["load_average"]
    if load and load[0] > cores:
        print(f"note: load average {load[0]:.1f} on {cores} cores: caches were shared, an idle host is faster")
    return 0


if __name__ == "__main__":
    main()
