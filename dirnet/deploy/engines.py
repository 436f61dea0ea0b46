"""What a comparison times: exported programs, and every way to run the dense model on this host.

A dense engine is timed only when its logits agree with eager torch: a wrong one must not become a baseline. One that
is not installed, or fails, is left out with a line on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dirnet.deploy import onnx_engine, torch_engine
from dirnet.deploy.export import build
from dirnet.deploy.onnx_engine import OnnxModel
from dirnet.deploy.program import Program
from dirnet.deploy.reading import Reader
from dirnet.deploy.stock_programs import stock_program
from dirnet.deploy.streaming import coded_groups
from dirnet.deploy.timing import Engine, Runner
from dirnet.errors import UserError
from dirnet.files import read_json
from dirnet.nn.acoustic import AcousticModel, splice

DTYPES = {"float32": "fp32", "int8": "int8"}  # a program's word for it, and ours
# Largest root mean square difference of an engine's logits from eager torch, over their own deviation from the mean.
# Rounding a random 5x500 LSTM to int8 makes 0.08, with torch's 7 bit activations 0.16; two swapped gates make 1.
BOUNDS = {"fp32": 1e-3, "int8": 0.25}
COMPARED = 64  # outputs


def program_engine(program: Program, chunk: int, features: Tensor) -> Engine:
    """Calls of `program` with `chunk` outputs, going through `features` (frames, size) again and again."""
    padded = program.padded(features, chunk)
    starts = range(0, (len(padded) - 2 * program.context) // program.stride, chunk)
    windows = [program.window(padded, start, chunk) for start in starts]
    dtype = DTYPES[program.dtype]
    frame_ms = program.frame_shift_ms * program.stride
    name, size = f"executorch {program.backend}", weight_bytes(program)
    return Engine(name, chunk, frame_ms, program, windows, dtype, size, features=features)


def weight_bytes(program: Program) -> int | None:
    """Bytes of the weights of `program`: by the report of its export, for stock operators of what they store."""
    if program.backend == "xnnpack":  # with the zeros among the codes, which the report does not count
        return len(program.content) if program.compressed else 4 * program.params
    report = read_json(program.path.with_suffix(".json")) or {}
    return report.get("weight_bytes")


def reader_engine(size: int, frame_ms: float) -> Engine:
    """A pure read of `size` bytes, as if that were an engine with one output a call."""
    return Engine("pure read", 1, frame_ms, Reader(size), [torch.empty(0)], "", size)


@dataclass(frozen=True)
class Peer:
    """One way to run the dense model: `make(chunk)` gives the runner, for `chunks` outputs a call."""

    name: str
    dtype: str
    chunks: Sequence[int]
    make: Callable[[int], Runner]


def dense_engines(
    model: AcousticModel, features: Tensor, chunks: Sequence[int], stock_chunks: Sequence[int], threads: int,
    has: Iterable[tuple[str, str, int]] = (), local: bool = True,
) -> list[Engine]:  # fmt: skip
    """Every engine for a dense `model` at each of `chunks` outputs per call, fp32 and int8, checked against torch.

    stock_chunks: those for which XNNPACK programs are exported. has: (name, dtype, chunk) measured already. local: also
    engines that run on this host alone, not in a phone's runner.
    """
    engines, done = [], set(has)
    for peer in _peers(model, features, chunks, stock_chunks, threads):
        if not local and not peer.name.startswith("executorch"):
            continue
        try:
            for chunk in peer.chunks:
                if (peer.name, peer.dtype, chunk) not in done:
                    engines.append(_checked(peer, model, chunk, features))
        except Exception as error:  # whatever a foreign engine dies of, the others are still to be measured
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{peer.name} {peer.dtype} is left out: {reason}", file=sys.stderr)
    return engines


def _peers(
    model: AcousticModel, features: Tensor, chunks: Sequence[int], stock_chunks: Sequence[int], threads: int
) -> list[Peer]:
    programs: dict[str, Program] = {}
    quantised: dict[str, torch_engine.TorchModel] = {}

    def kernels(dtype: str) -> Callable[[int], Runner]:
        def make(chunk: int) -> Runner:
            if dtype not in programs:
                own = in_int8(model) if dtype == "int8" else model
                programs[dtype] = Program(f"dense {dtype}", build(own, "dirnet", 16)[0].content)
            return programs[dtype]

        return make

    def onnx(dtype: str) -> Callable[[int], Runner]:
        def make(chunk: int) -> Runner:
            if not onnx_engine.available():
                raise UserError("onnx and onnxruntime are not installed (pip install onnx onnxruntime)")
            return OnnxModel(model, chunk, threads, dtype)

        return make

    def torch_int8(chunk: int) -> Runner:
        if not quantised:
            quantised.update(torch_engine.quantised(model))
        return torch_engine.fastest(quantised, _windows(model, features, chunk)[0])[1]

    def stock(dtype: str) -> Callable[[int], Runner]:
        return lambda chunk: stock_program(model, dtype, chunk)

    return [
        Peer("torch", "fp32", chunks, lambda chunk: torch_engine.TorchModel(model)),
        Peer("onnxruntime", "fp32", chunks, onnx("fp32")),
        Peer("executorch dirnet", "fp32", chunks, kernels("fp32")),
        Peer("executorch xnnpack", "fp32", stock_chunks, stock("fp32")),
        Peer("torch", "int8", chunks, torch_int8),
        Peer("onnxruntime", "int8", chunks, onnx("int8")),
        Peer("executorch dirnet", "int8", chunks, kernels("int8")),
        Peer("executorch xnnpack", "int8", stock_chunks, stock("int8")),
    ]


@torch.no_grad()
def in_int8(model: AcousticModel) -> AcousticModel:
    """A dense `model` with the int8 weights of our kernels: every code kept, no dictionary."""
    dense = coded_groups(model.rnn)
    layout = tuple((None, None) for _ in dense)
    copy = AcousticModel(replace(model.config, compression=layout, dtype="int8")).eval()
    for ours, theirs in zip(copy.rnn.groups, dense, strict=True):
        ours.codes.copy_(theirs.codes)
    weights = dict(model.named_parameters())
    for name, parameter in copy.named_parameters():
        if name in weights:  # biases and the output layer
            parameter.copy_(weights[name])
    return copy


def _checked(peer: Peer, model: AcousticModel, chunk: int, features: Tensor) -> Engine:
    runner, windows = peer.make(chunk), _windows(model, features, chunk)
    frame_ms = float(model.config.frame_shift_ms) * model.config.frame_stride
    fed = program_engine(runner, chunk, features).windows if isinstance(runner, Program) else windows
    size = dense_bytes(model, peer.dtype)
    engine = Engine(peer.name, chunk, frame_ms, runner, fed, peer.dtype, size, features=features)
    check(engine, expected_logits(model, windows))
    return engine


def check(engine: Engine, expected: Tensor) -> float:
    """Root mean square difference of the first logits of `engine` from `expected`, over the deviation of these.

    A `UserError` above the bound of the engine's dtype.
    """
    states, found = engine.runner.initial_states(), []
    for window in engine.windows[: -(-COMPARED // engine.chunk)]:
        engine.runner.prepare(window, states)
        engine.runner.compute()
        logits, states = engine.runner.results()
        found.append(logits.clone())
    logits = torch.cat(found)
    expected = expected[: len(logits)]
    difference = float((logits - expected).norm() / (expected - expected.mean(0)).norm().clamp_min(1e-12))
    bound = BOUNDS[engine.dtype]
    if not difference <= bound:  # NaN is refused too
        raise UserError(f"its logits for {engine.chunk} outputs a call differ from torch's by {difference:.2g}, "
                        f"expected at most {bound:g} of their deviation")  # fmt: skip
    return difference


@torch.no_grad()
def expected_logits(model: AcousticModel, windows: Sequence[Tensor]) -> Tensor:
    """Logits (T, outputs) of eager torch for as many `windows` as are compared."""
    x = torch.cat(list(windows))[: COMPARED + len(windows[0])]
    return model.output(model.rnn(x[None])[0])[0]


@torch.no_grad()
def _windows(model: AcousticModel, features: Tensor, chunk: int) -> list[Tensor]:
    """`features` (frames, size) as the RNN's input in whole chunks (chunk, 494); zeros fill up the last one."""
    missing = -len(features) % (chunk * model.config.frame_stride)
    normalised = torch.nn.functional.pad(model.normalise(features), (0, 0, 0, missing))
    spliced = splice(normalised[None], model.config.context, model.config.frame_stride)[0]
    return [piece.contiguous() for piece in spliced.split(chunk)]


def dense_bytes(model: AcousticModel, dtype: str) -> int:
    """Bytes of the weights of a dense `model`; in int8 with a float scale per row, biases stay float."""
    parameters = [*model.rnn.parameters(), *model.output.parameters()]
    matrices, vectors = ([p for p in parameters if p.dim() == dim] for dim in (2, 1))
    size = sum(p.numel() for p in matrices) * (1 if dtype == "int8" else 4) + sum(4 * p.numel() for p in vectors)
    return size + (sum(4 * len(p) for p in matrices) if dtype == "int8" else 0)
