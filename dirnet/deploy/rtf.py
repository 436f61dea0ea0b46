"""Stage 8: real-time factor of exported models, on this host through ExecuTorch's own runtime.

    dirnet rtf --model exp/dirnet_7.9x/encoder.pte --out exp/dirnet_7.9x/rtf.json
    dirnet rtf --compare exp/smbr exp/svd_7.9x exp/dirnet_7.9x [--baseline exp/smbr]
    dirnet rtf --compare exp/smbr exp/dirnet_7.9x --device adb --runner build/dirnet_runner

The second form measures all models and every dense engine at hand, fp32 and int8, in turns in one process, so that a
busy moment hits all alike, and tells each model's speed-up over the *fastest* dense fp32 and the fastest dense int8
engine that work in chunks no longer than its own, and its time over that of a pure read of its weights.
Timed is the acoustic model without MFCC: handing over a chunk and running it, not Python's copying of results;
with one thread by its CPU clock (what waits for a busy core is not the engine's), with more by the wall clock.
Caches are hot (an engine has them to itself for 0.2 s of audio, and its first call there does not count) or cold (a
buffer larger than the last level is written before every call). XNNPACK programs are exported for --xnnpack_chunks
only: longer ones take minutes to export, and were never the fastest, as every unrolled step keeps its own copy of the
weights in memory. `--engine cpp` calls the programs from C++ as an app would, `--device adb` does so on a phone
(`dirnet.deploy.phone`); both with hot caches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from dirnet.deploy import comparison, runner
from dirnet.deploy.lowering import MAX_FRAMES
from dirnet.deploy.measuring import CACHES, CHUNKS, Settings, measure
from dirnet.deploy.phone import CLUSTERS, Phone
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write, check_place
from dirnet.options import Parser


def rtf_line(result: dict[str, Any]) -> str:
    """The customary line."""
    return f"mean RTF = elapsed / audio = {result['elapsed_s']:.3f} / {result['audio_s']:.3f} = {result['rtf']:.5f}"


def check_threads(threads: int) -> int:
    """The number of cores of this process, if they are as many as `threads`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise UserError(f"--threads is {threads}, expected 1..{cores}, the cores of this process")
    return cores


def check_seconds(seconds: float) -> None:
    """A `UserError` unless that much audio can be gone through."""
    if not 0 < seconds < math.inf:
        raise UserError(f"--seconds is {seconds}, expected seconds of audio above 0")


def _target(options: argparse.Namespace) -> runner.Host | Phone | None:
    """Where the C++ runner is to run, None when Python calls the programs."""
    name, _, serial = options.device.partition(":")
    if name == "adb":
        if options.engine == "python":
            raise UserError("--engine python is for --device host; a phone has the C++ runner only")
        if options.runner is None:
            raise UserError("--device adb needs --runner, a dirnet_runner built for the phone; README, \"On a phone\", "
                            "tells how to build one")  # fmt: skip
        return Phone(options.runner, serial, options.cluster or "big", options.threads)
    if options.device != "host":
        raise UserError(f"--device is {options.device!r}, expected host, adb or adb:SERIAL")
    if options.cluster is not None:
        raise UserError(f"--cluster {options.cluster} goes with --device adb; this host's cores are told by taskset")
    if options.runner is not None and options.engine == "python":
        raise UserError("--runner goes with --engine cpp")
    return runner.Host(options.runner) if options.runner or options.engine == "cpp" else None


def _chunks(flag: str, text: str | None, default: Sequence[int]) -> list[int]:
    """Outputs per call from `1,8,16`."""
    values = list(default) if text is None else [int(item) if item.isdecimal() else 0 for item in text.split(",")]
    if not all(1 <= value <= MAX_FRAMES for value in values):
        raise UserError(f"{flag} is {text!r}, expected outputs per call from 1 to {MAX_FRAMES} such as 1,8,16")
    return sorted(set(values))


def _caches(text: str | None, default: Sequence[str], target: runner.Target | None) -> list[str]:
    """States of the caches from `hot,cold`, hot first; the runner knows hot ones."""
    if target is not None and text not in (None, "hot"):
        raise UserError(f"--cache is {text!r}, expected hot for the C++ runner; --engine python measures cold ones")
    if target is not None:
        return ["hot"]
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
    except (ValueError, TypeError, OSError, EOFError, MemoryError, SyntaxError, TokenError, BadZipFile):  # odd headers
        raise UserError(f"--feats {path} is not a .npy array of numbers; save one with numpy.save") from None


def _write(results: dict[Path, dict[str, Any]], out: str | None) -> None:
    for folder, result in results.items():
        path = Path(out) if out else (folder.parent if folder.suffix == ".pte" else folder) / "rtf.json"
        with atomic_write(path) as stream:
            stream.write(json.dumps(result, indent=1) + "\n")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Time one program, or several and the dense engines in turns; write `rtf.json` and print the figures."""
    parser = Parser(prog="dirnet rtf", description=__doc__)
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
    parser.add_argument("--cluster", metavar="CORES",
                        help=f"cores of a phone: {', '.join(CLUSTERS)}, or 4-7 (default big)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="cores to pin to (default 1)")
    parser.add_argument("--seconds", type=float, default=20.0, help="audio per engine (default 20)")
    parser.add_argument("--chunks", help="outputs per call, beside a program's own (default: 1; compared 1,8,16,32)")
    parser.add_argument("--cache", help="hot or hot,cold, the state of the caches (default: hot; compared both)")
    parser.add_argument("--xnnpack_chunks",
                        help="outputs per call of dense XNNPACK programs; 8 export in minutes (default 1)")  # fmt: skip
    options = parser.parse_args(argv)
    target = _target(options)
    cores = check_threads(options.threads) if target is None or target.local else 0
    check_seconds(options.seconds)
    for name in ("baseline", "xnnpack_chunks"):
        if options.model and getattr(options, name) is not None:
            raise UserError(f"--{name} goes with --compare; --model times one program alone")
    if options.compare and options.out:
        raise UserError("--out goes with --model; --compare writes rtf.json into every folder")
    if options.out:
        check_place(options.out)
    if options.model and options.model.is_dir():
        raise UserError(f"--model {options.model} is a folder, expected a program; give its encoder.pte")
    folders = options.compare or [options.model]
    settings = Settings(
        options.seconds,
        options.threads,
        _chunks("--chunks", options.chunks, CHUNKS if options.compare else (1,)),
        _caches(options.cache, CACHES if options.compare else ("hot",), target),
        _chunks("--xnnpack_chunks", options.xnnpack_chunks, (1,)),
        target,
    )
    features = _read_features(options.feats)
    with target or contextlib.nullcontext():
        results = measure(folders, options.baseline, features, settings)
    _write(results, options.out)
    if options.compare:
        print(comparison.engines_table(results), comparison.models_table(results), sep="\n\n")
    for folder, result in results.items():
        print(f"{folder}: {rtf_line(result)}")
    load = next(iter(results.values())).get("load_average")
    if load and load[0] > cores:
        print(f"note: load average {load[0]:.1f} on {cores} cores: caches were shared, an idle host is faster")
    return 0


if __name__ == "__main__":
    main()
