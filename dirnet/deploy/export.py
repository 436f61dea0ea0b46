"""Stage 7: a neutral acoustic model becomes a streaming ExecuTorch program, checked before it is written.

    dirnet export --model exp/dirnet_7.9x --out exp/dirnet_7.9x/encoder.pte

What the program reads and gives is told in `dirnet.deploy.streaming`, what it says about itself in `constants`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dirnet
from dirnet.deploy import certificate, library, reference_outputs
from dirnet.deploy.lowering import MAX_FRAMES, Lowered, lower
from dirnet.deploy.parity import INT8_TOLERANCE, TOLERANCE, checked
from dirnet.deploy.program import Program
from dirnet.deploy.streaming import KernelModel, StockModel, StreamingModel
from dirnet.deploy.xnnpack_int8 import Int8StockModel
from dirnet.errors import UserError, one_line_errors
from dirnet.files import check_place
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel
from dirnet.options import Parser
from dirnet.provenance import package_version

DEFAULT_CHUNK = {"dirnet": 16, "xnnpack": 1}  # stock operators are unrolled: the export grows with the chunk


def streaming_model(model: AcousticModel, backend: str, chunk: int) -> StreamingModel:
    """`model` for `backend`: `dirnet` takes any T, `xnnpack` exactly `chunk` outputs per call."""
    if backend == "dirnet":
        return KernelModel(model)
    return (Int8StockModel if model.config.dtype == "int8" else StockModel)(model, chunk)


def constants(model: AcousticModel, streaming: StreamingModel, chunk: int, sha256: str) -> dict[str, Any]:
    """The constant methods of the program: all that a runner must know to feed it and to read its output.

    chunk: outputs per call it is meant for; max_chunk: the most it takes (equal to chunk when that is the only size).
    context: frames on either side of a call's own; stride: input frames per output. phones: names by blanks.
    state_sizes: columns of every state. mfcc: JSON of the feature settings. model_sha256: of the neutral weights.
    An output whose name has a blank, or is another's, too, and a single output are `UserError`s.
    """
    config = model.config
    if len(config.phones) < 2:
        raise UserError(f"the model has {len(config.phones)} outputs, expected blank and others; train it with more")
    for number, phone in enumerate(config.phones):
        if phone.split() != [phone]:
            raise UserError(f"output {number} is called {phone!r}, expected a name without blanks; rename it")
        if config.phones.index(phone) < number:
            raise UserError(f"outputs {config.phones.index(phone)} and {number} are both called {phone!r}; rename one")
    return {
        "dirnet_version": dirnet.__version__,
        "name": config.name or "model",
        "backend": streaming.backend,
        "rnn_type": config.rnn_type,
        "compressed": config.compression is not None,
        "dtype": config.dtype,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "model_sha256": sha256,
        "phones": " ".join(config.phones),
        "sample_rate": config.sample_rate,
        "frame_shift_ms": float(config.frame_shift_ms),
        "feature_size": config.feature_size,
        "mfcc": json.dumps(config.mfcc, sort_keys=True),
        "cmvn_mean": model.cmvn_mean.clone(),
        "cmvn_istd": model.cmvn_istd.clone(),
        "context": config.context,
        "stride": config.frame_stride,
        "chunk": chunk,
        "max_chunk": MAX_FRAMES if streaming.backend == "dirnet" else chunk,
        "state_sizes": torch.tensor(streaming.state_sizes, dtype=torch.int32),
    }


def build(model: AcousticModel, backend: str, chunk: int, sha256: str = "") -> tuple[Lowered, dict[str, float]]:
    """The program of `model` and its parity; more than the tolerance is a `UserError`."""
    limit = MAX_FRAMES if backend == "dirnet" else 16
    if not 1 <= chunk <= limit:
        raise UserError(f"chunk is {chunk}, expected 1..{limit} outputs per call for --backend {backend}")
    if backend == "dirnet":
        library.load()  # a missing compiler is told before the work
    streaming = streaming_model(model, backend, chunk)
    lowered = lower(streaming, constants(model, streaming, chunk, sha256))
    return lowered, check(model, Program("the exported program", lowered.content))


@torch.no_grad()
def check(model: AcousticModel, program: Program) -> dict[str, float]:
    """How far the program is from eager `model`, by kind of input; `UserError` above the tolerance.

    Noise and speech-like features run in the program's own chunk. 16 outputs run as 7 + 9 (as single chunks where the
    chunk is fixed) and must equal one pass: the states carry everything.
    """
    chunk, fixed, int8 = program.chunk, program.max_chunk == program.chunk, program.dtype == "int8"
    short, statistics = 16 * program.stride, (model.cmvn_mean, model.cmvn_istd)
    cases = {
        "noise": (_noise(*statistics, 50 * program.stride), chunk),
        "speech_like": (speech_like(*statistics, 100 * program.stride), chunk),
        "streaming": (speech_like(*statistics, short, seed=1), chunk if fixed else [7, 9]),
    }
    parity = {}
    for name, (features, chunks) in cases.items():
        if int8 and name == "streaming" and not fixed:  # to the bit of the same arithmetic
            expected, dtype = program.stream(features, 16).log_softmax(dim=-1), "float32"
        else:
            expected, dtype = model(features[None], torch.tensor([len(features)]))[0][0], program.dtype
        parity[name] = checked(expected, program.stream(features, chunks), dtype, f"{program.name} on {name} features")
    return parity


def speech_like(mean: Tensor, istd: Tensor, frames: int, seed: int = 0) -> Tensor:
    """(frames, size) with these CMVN statistics and the slow change of speech (correlation 0.9 per frame)."""
    noise = torch.randn(frames, len(mean), generator=torch.Generator().manual_seed(seed))
    smooth = [noise[0]]
    for frame in noise[1:]:
        smooth.append(0.9 * smooth[-1] + (1 - 0.9**2) ** 0.5 * frame)
    return mean + torch.stack(smooth) / istd


def _noise(mean: Tensor, istd: Tensor, frames: int) -> Tensor:
    """White and twice as loud as the training data."""
    return mean + 2 * torch.randn(frames, len(mean), generator=torch.Generator().manual_seed(2)) / istd


def _reference(model: AcousticModel) -> Tensor:
    """Features for 24 outputs: more than one call of the default chunk, so that the states count."""
    return speech_like(model.cmvn_mean, model.cmvn_istd, 24 * model.config.frame_stride, seed=2)


def export(
    model_folder: str | Path, out: str | Path, backend: str = "dirnet", chunk: int | None = None
) -> dict[str, Any]:
    """Write the program of the neutral model in `model_folder` to `out`, and its report to the `.json` beside it.

    chunk: outputs per call, by default that of DEFAULT_CHUNK. Returns the report: bytes, sha256, parity, operators,
    reference outputs; weight_bytes of the program, and stored_bytes, those of the stored model.
    """
    check_place(out)
    if Path(out).suffix == ".json":
        raise UserError(f"--out {out} is where the report goes; give another ending, such as .pte")
    if Path(out).stem == Path(storage.DESCRIPTION).stem:
        raise UserError(f"--out {out} puts its report where a model has its {storage.DESCRIPTION}; give another name, "
                        "such as encoder.pte")  # fmt: skip
    began = time.monotonic()
    model = storage.load(model_folder)
    source = origin(model_folder)
    chunk = DEFAULT_CHUNK[backend] if chunk is None else chunk
    lowered, parity = build(model, backend, chunk, source["model_sha256"])
    calls = sum(lowered.operators.values())
    report = {
        "model": str(model_folder),
        **source,
        "backend": backend,
        "chunk": chunk,
        "delegated": lowered.delegated / calls if calls else 0.0,
        "seconds": round(time.monotonic() - began, 1),
        **contents(model, lowered, parity, _reference(model)),
    }
    certificate.write(Path(out), lowered.content, report)
    return report


def origin(folder: str | Path, kind: str = storage.FORMAT) -> dict[str, Any]:
    """What a report tells of its origin: the model in `folder`, of format `kind`, and the versions."""
    description = storage.describe(folder, kind)
    versions = {name: package_version(name) for name in ("torch", "executorch")}
    return {
        "model_sha256": description["sha256"],
        "config_sha256": storage.config_sha256(description["config"]),
        "versions": versions | {"dirnet": dirnet.__version__, "python": platform.python_version()},
    }


def contents(model: AcousticModel, lowered: Lowered, parity: dict[str, float], features: Tensor) -> dict[str, Any]:
    """What it tells of the program itself: sizes, sha256, parity, operators, reference outputs for `features`."""
    return {
        "bytes": len(lowered.content),
        "dtype": model.config.dtype,
        "stored_bytes": storage.stored_bytes(model),
        "weight_bytes": lowered.weight_bytes,
        "sha256": hashlib.sha256(lowered.content).hexdigest(),
        "parity": parity,
        "operators": lowered.operators,
        "reference": reference_outputs.record(model, features),
    }


def describe(report: dict[str, Any]) -> str:
    """The report in a few lines for a terminal."""
    ours = sum(count for name, count in report["operators"].items() if name.startswith("dirnet."))
    calls = sum(report["operators"].values())
    delegated = round(report["delegated"] * calls)
    parity = {name: value for name, value in report["parity"].items() if name != "streaming"}
    how = f"parity with torch: {max(parity.values()):.1e} at most (limit {TOLERANCE:g})"
    if report["dtype"] == "int8":
        how = f"divergence from torch: {max(parity.values()):.1e} nats at most (limit {INT8_TOLERANCE:g})"
    return (
        f"operators: {calls} = {ours} dirnet + {delegated} delegated + {calls - ours - delegated} portable\n"
        f"size: {report['bytes']} bytes, of these {report['dtype']} weights {report['weight_bytes']} "
        f"({report['stored_bytes']} in the stored model)\n"
        f"{how}; streaming equals one pass"
    )


def is_current(model_folder: str | Path, out: str | Path, backend: str, chunk: int | None) -> bool:
    """Whether `out` is already the program of that model, backend, chunk and these versions."""
    report = certificate.found(Path(out))
    wanted = {"backend": backend, "chunk": DEFAULT_CHUNK[backend] if chunk is None else chunk}
    return bool(report) and report.items() >= (origin(model_folder) | wanted).items()


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the program of a stored model and its report; one that is current is left alone."""
    parser = Parser(prog="dirnet export", description=__doc__)
    parser.add_argument("--model", required=True, help="folder with model.safetensors and model.json")
    parser.add_argument("--out", help="the program to write (default: encoder.pte in that folder)")
    parser.add_argument("--backend", choices=sorted(DEFAULT_CHUNK), default="dirnet",
                        help="our operators, or stock operators in XNNPACK (no compiler needed)")  # fmt: skip
    parser.add_argument("--chunk", type=int, help="outputs per call (default: 16, for xnnpack 1)")
    options = parser.parse_args(argv)
    out = Path(options.out or Path(options.model) / "encoder.pte")
    chunk = DEFAULT_CHUNK[options.backend] if options.chunk is None else options.chunk
    if is_current(options.model, out, options.backend, chunk):
        print(f"{out} is already the program of {options.model}; nothing to do")
        return 0
    print(f"exporting {options.model}: backend {options.backend}, chunk {chunk}", flush=True)  # stock ones take long
    report = export(options.model, out, options.backend, chunk)
    print(describe(report))
    print(f"wrote {out} in {report['seconds']} s")
    return 0


if __name__ == "__main__":
    main()
