"""The stock program in int8: XNNPACK's dynamically quantised linear layers.

Weights are int8 with a scale per output row, activations are rounded anew at every call, cells stay fp32: what
ExecuTorch's own recipe for dynamic quantisation (PT2E with `XNNPACKQuantizer`) makes of the linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dirnet.deploy.lowering import quiet
from dirnet.deploy.runtime import muted
from dirnet.deploy.streaming import StockModel
from dirnet.nn.acoustic import AcousticModel


class Int8StockModel(StockModel):
    """`StockModel` of `frames` outputs per call whose linear layers hold int8 weights; `lower` takes it as it is."""

    def __init__(self, model: AcousticModel, frames: int):
        super().__init__(model, frames)
        example = (torch.zeros(frames * self.stride + 2 * self.context, len(self.mean)), *self.initial_states())
        self.quantised = _quantised(StockModel(model, frames), example)
        del self.layers, self.weight, self.bias  # the float weights, which the graph does not read any more

    def forward(self, features: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.quantised(features, *states))


def _quantised(model: StockModel, example: tuple[Tensor, ...]) -> nn.Module:
    """The graph of `model` with its linear layers quantised; `example` are inputs of the right shapes."""
    with muted():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    recipe = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    with quiet(), torch.no_grad():
        graph = torch.export.export(model, example, strict=False).module()
        prepared = prepare_pt2e(graph, XNNPACKQuantizer().set_global(recipe))
        prepared(*example)  # activations are measured at run time, weights here
        graph = convert_pt2e(prepared)
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in graph.named_buffers() if name not in used]:  # the exporter would write them too
        owner, _, last = name.rpartition(".")
        delattr(graph.get_submodule(owner), last)
    return graph
