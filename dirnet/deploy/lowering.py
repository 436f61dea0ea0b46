"""From a streaming model to the bytes of an ExecuTorch program."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dirnet.deploy.library import executorch_folder
from dirnet.deploy.packing import ALIGNMENT
from dirnet.deploy.runtime import muted
from dirnet.deploy.streaming import StockModel, StreamingModel

MAX_FRAMES = 64  # the bound of T in a program of our operators: what its memory is planned for


@dataclass(frozen=True)
class Lowered:
    """A serialised program and what it is made of.

    operators: calls by name, the delegated ones as `XnnpackBackend: aten...`. weight_bytes: of the model's tensors.
    """

    content: bytes
    operators: dict[str, int]
    weight_bytes: int

    @property
    def delegated(self) -> int:
        """Operator calls that run in a delegate."""
        return sum(count for name, count in self.operators.items() if ": " in name)


def lower(model: StreamingModel, constants: dict[str, Any]) -> Lowered:
    """Export `model` with `constants` (int, float, str, bool, tensor) as constant methods.

    A `StockModel` goes to XNNPACK with its fixed T, a `KernelModel` takes any T from 1 to MAX_FRAMES and leaves its
    output layer alone to XNNPACK.
    """
    with muted():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    stock = isinstance(model, StockModel)
    frames = model.frames if stock else 16
    features = torch.zeros(frames * model.stride + 2 * model.context, model.mean.shape[0])
    states = model.initial_states()
    shapes = None
    if not stock:
        length = model.stride * torch.export.Dim("T", min=1, max=MAX_FRAMES) + 2 * model.context
        shapes = ({0: length}, tuple(None for _ in states))
    with quiet(), torch.no_grad():
        exported = torch.export.export(model, (features, *states), dynamic_shapes=shapes, strict=False)
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=constants)
        content = edge.to_executorch(ExecutorchBackendConfig(constant_tensor_alignment=ALIGNMENT)).buffer
    weight_bytes = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    return Lowered(content, _operators(edge.exported_program()), weight_bytes)


def _operators(program: torch.export.ExportedProgram) -> dict[str, int]:
    """Calls by name in the graph and inside its delegates."""
    calls: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            delegate = getattr(program.graph_module, node.target)
            inner = delegate.original_module.graph_module.graph
            calls.update(f"{delegate.backend_id}: {name}" for name in map(_name, inner.nodes) if name)
        elif name := _name(node):
            calls[name] += 1
    return dict(sorted(calls.items()))


def _name(node: torch.fx.Node) -> str | None:
    """`aten.linear` or `dirnet.rnn_layer` for a call of an operator, None for any other node."""
    if node.op != "call_function":
        return None
    found = re.search(r"\b((?:aten|dim_order_ops|dirnet)\.\w+)", str(node.target))
    return found and found[1]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """flatc on ExecuTorch's path; the exporters' warnings about their own internals muted."""
    if shutil.which("flatc") is None:
        os.environ.setdefault("FLATC_EXECUTABLE", str(executorch_folder() / "data/bin/flatc"))
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
