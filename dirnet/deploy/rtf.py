"""Stage 8: real-time factor of exported models, through ExecuTorch's own runtime: on this host, or on a phone.

    python -m dirnet.deploy.rtf --model exp/dirnet_7.9x/encoder.pte --out exp/dirnet_7.9x/rtf.json
    python -m dirnet.deploy.rtf --compare exp/smbr exp/svd_7.9x exp/dirnet_7.9x [--baseline exp/smbr]
    python -m dirnet.deploy.rtf --compare exp/smbr exp/dirnet_7.9x --device adb --runner build/dirnet_runner

The second form measures all models and every dense fp32 engine at hand in turns in one process, so that a busy moment
hits all alike, and tells each model's speed-up over the *fastest* dense engine that works in chunks no longer than its
own. Timed is the acoustic model without MFCC: handing over a chunk and running it, not Python's copying of results;
with one thread by its CPU clock (what waits for a busy core is not the engine's), with more by the wall clock.
`--engine cpp` calls the programs from C++ as an app would, `--device adb` does so on a phone (`dirnet.deploy.phone`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy import onnx_engine, runner, timing
from dirnet.deploy.export import build, speech_like
from dirnet.deploy.phone import CLUSTERS, Phone
from dirnet.deploy.program import Program
from dirnet.deploy.timing import Engine, Timing
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel

CHUNK = 16  # outputs per call of the dense engines, beside 1


def program_engine(program: Program, chunk: int, features: Tensor) -> Engine:
    """Calls of `program` with `chunk` outputs, going through `features` (frames, size) again and again."""
    padded = program.padded(features, chunk)
    starts = range(0, (len(padded) - 2 * program.context) // program.stride, chunk)
    windows = [program.window(padded, start, chunk) for start in starts]
    return Engine(f"executorch {program.backend}", chunk, _frame_ms(program), program, windows, features=features)


def dense_engines(
    model: AcousticModel, features: Tensor, threads: int, has: set[tuple[str, int]], local: bool = True
) -> list[Engine]:
    """Every other way to run a dense `model` in fp32 here (`local`) or on a phone; `has`: (backend, chunk) measured."""
    engines = []
    for backend, export_chunk, chunks in (("xnnpack", 1, (1,)), ("dirnet", CHUNK, (1, CHUNK))):
        missing = [chunk for chunk in chunks if (backend, chunk) not in has]
        if missing:
            program = Program(f"dense {backend}", build(model, backend, export_chunk)[0].content)
            engines += [program_engine(program, chunk, features) for chunk in missing]
    if not local:
        return engines
    if not onnx_engine.available():
        print("onnxruntime and onnx are not installed: the dense baseline is measured without them "
              "(pip install onnx onnxruntime)")  # fmt: skip
        return engines
    windows = model.splice(model.normalise(features[None]))[0]
    for chunk in (1, CHUNK):
        session = onnx_engine.OnnxModel(model, chunk, threads)
        pieces = [piece.contiguous() for piece in windows.split(chunk) if len(piece) == chunk]
        engines.append(Engine("onnxruntime", chunk, _frame_ms(model.config), session, pieces))
    return engines


def measure(
    folders: Sequence[Path],
    baseline: Path | None,
    features: Tensor | None,
    seconds: float,
    threads: int,
    target: runner.Target | None = None,
) -> dict[Path, dict[str, Any]]:
    """The result of every program in `folders` (each a folder with encoder.pte, or a .pte), in their order.

    The dense engines of `baseline` (default: the first dense folder that holds its neutral model) are measured too.
    target: where the C++ runner times them; None: here, called from Python.
    """
    with timing.pinned(threads if target is None or target.local else 1) as cores:
        programs = {folder: Program(_program_path(folder)) for folder in folders}
        baseline = _baseline(programs, baseline)
        engines: dict[Path, list[Engine]] = {}
        for folder, program in programs.items():
            own = _features(program, features)
            chunks = sorted({1, program.chunk}) if program.max_chunk > program.chunk else [program.chunk]
            engines[folder] = [program_engine(program, chunk, own) for chunk in chunks]
            if folder == baseline:
                has = {(program.backend, chunk) for chunk in chunks}
                engines[folder] += dense_engines(storage.load(folder), own, threads, has, not target or target.local)
        all_engines = [engine for own in engines.values() for engine in own]
        if target is None:
            timings = timing.in_turns(all_engines, seconds, threads)
            machine = timing.machine() | {"threads": threads, "cores": cores}
        else:
            timings = runner.in_turns(all_engines, seconds, threads, target)
            machine = {"device": target.name, "threads": threads} | target.machine()
    results = {}
    for folder, program in programs.items():
        rows = [timings[id(engine)] for engine in engines[folder]]
        # A dense baseline is as fast as its fastest engine; anything else is the program that was exported.
        best = min(rows, key=Timing.us) if folder == baseline else next(r for r in rows if r.chunk == program.chunk)
        against = [timings[id(engine)] for engine in engines[baseline]] if baseline else []
        results[folder] = _result(program, best, rows, against, str(baseline)) | machine
    return results


def _baseline(programs: dict[Path, Program], wanted: Path | None) -> Path | None:
    """The folder of the dense model to compare with: `wanted`, or the first that can be; None without any."""
    dense = [f for f, p in programs.items() if not p.compressed and (f / storage.WEIGHTS).exists()]
    if wanted is not None and wanted not in dense:
        raise UserError(f"baseline {wanted} is not among the dense models compared; give one of: "
                        f"{', '.join(map(str, dense)) or 'none is'}")  # fmt: skip
    return wanted or next(iter(dense), None)


def _result(program: Program, own: Timing, rows: list[Timing], dense: list[Timing], baseline: str) -> dict[str, Any]:
    """What `rtf.json` tells of one model."""
    result = {
        "model": program.name,
        "program": str(program.path),
        "sha256": program.sha256,
        "bytes": len(program.content),
        "params": program.params,
        "device": "host",
        **own.to_mapping(),
        "timed": "acoustic model without MFCC: set inputs + execute",
        "engines": [row.to_mapping() | _speed_up(row, dense) for row in rows],
    }
    if dense:
        result |= {"baseline": baseline} | _speed_up(own, dense)
    return result


def _speed_up(own: Timing, dense: list[Timing]) -> dict[str, Any]:
    """Against the fastest of `dense` with chunks no longer than one's own, by the median."""
    eligible = [row for row in dense if row.chunk <= own.chunk]
    if not eligible:
        return {}
    fastest = min(eligible, key=Timing.us)
    name = f"{fastest.engine} fp32, chunk {fastest.chunk}: {fastest.us():.1f} us per frame"
    return {"speed_up": fastest.us() / own.us(), "against": name}


def table(results: dict[Path, dict[str, Any]]) -> str:
    """One line per model for the terminal."""
    lines = [f"{'model':<24}{'engine':<22}{'chunk':>5}{'us/frame':>10}{'p95':>9}{'RTF':>10}{'speed-up':>10}"]
    for folder, result in results.items():
        us, speed_up = result["us_per_frame"], result.get("speed_up")
        lines.append(
            f"{str(folder)[-23:]:<24}{result['engine']:<22}{result['chunk']:>5}{us['p50']:>10.1f}{us['p95']:>9.1f}"
            f"{result['rtf']:>10.5f}{f'{speed_up:.2f}x' if speed_up else '-':>10}"
        )
    return "\n".join(lines)


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


def _frame_ms(config: Any) -> float:
    """Audio that one output stands for; `config` is a program or a model's configuration."""
    stride = config.stride if isinstance(config, Program) else config.frame_stride
    return float(config.frame_shift_ms) * stride


def _target(options: argparse.Namespace) -> runner.Host | Phone | None:
    """Where the C++ runner is to run, None when Python calls the programs."""
    name, _, serial = options.device.partition(":")
    if name == "adb":
        if options.engine == "python":
            raise UserError("--engine python is for --device host; a phone has the C++ runner only")
        if options.runner is None:
            raise UserError("--device adb needs --runner, a dirnet_runner built for the phone; README, \"On a phone\", "
                            "tells how to build one")  # fmt: skip
        return Phone(options.runner, serial, options.cluster, options.threads)
    if options.device != "host":
        raise UserError(f"--device is {options.device!r}, expected host, adb or adb:SERIAL")
    if options.runner is not None and options.engine == "python":
        raise UserError("--runner goes with --engine cpp")
    return runner.Host(options.runner) if options.runner or options.engine == "cpp" else None


def _features(program: Program, features: Tensor | None) -> Tensor:
    """The user's features, or four seconds that look like speech; the kernels take the same time for both."""
    if features is None:
        return speech_like(program.cmvn_mean, program.cmvn_istd, 400)
    if features.dim() != 2 or features.shape[1] != program.feature_size or not torch.isfinite(features).all():
        raise UserError(f"--feats holds {list(features.shape)}, expected finite (frames, {program.feature_size}) MFCC")
    return features


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
    parser.add_argument("--engine", choices=("python", "cpp"),
                        help="what calls the programs on the host: python (default), or the C++ runner")  # fmt: skip
    parser.add_argument("--runner", type=Path, help="a dirnet_runner built for the device, see README; implies cpp")
    parser.add_argument("--cluster", default="big", metavar="CORES",
                        help=f"cores of a phone: {', '.join(CLUSTERS)}, or 4-7 (default big)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="cores to pin to (default 1)")
    parser.add_argument("--seconds", type=float, default=20.0, help="audio per engine (default 20)")
    options = parser.parse_args(argv)
    target = _target(options)
    cores = check_threads(options.threads) if target is None or target.local else 0
    if not options.seconds > 0:
        raise UserError(f"--seconds is {options.seconds}, expected seconds of audio above 0")
    if options.compare and options.out:
        raise UserError("--out goes with --model; --compare writes rtf.json into every folder")
    folders = options.compare or [options.model]
    features = _read_features(options.feats)
    with target or contextlib.nullcontext():
        results = measure(folders, options.baseline, features, options.seconds, options.threads, target)
    _write(results, options.out)
    if options.compare:
        print(table(results))
    for folder, result in results.items():
        print(f"{folder}: {rtf_line(result)}")
    load = next(iter(results.values())).get("load_average")
    if load and load[0] > cores:
        print(f"note: load average {load[0]:.1f} on {cores} cores: caches were shared, an idle host is faster")
    return 0


if __name__ == "__main__":
    main()
