"""The dense model in onnxruntime, fp32 or dynamic int8: a peer for timings, not a way to deploy.

onnx and onnxruntime are development extras; `available()` tells whether they are there.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dirnet.deploy.lowering import quiet
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel

_OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_GATE_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # torch i f g o -> onnx i o f c; r z n -> z r h


def available() -> bool:
    """Whether onnx and onnxruntime are installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


class OnnxModel:
    """RNN stack and output layer of a dense `model` for `frames` outputs per call: windows (T, 494) to logits.

    dtype: fp32, or int8: weights with a scale per channel, in seven bits, for the sums of full bytes overflow where a
    processor has no VNNI; activations rounded anew at every call; an LSTM only.
    """

    def __init__(self, model: AcousticModel, frames: int, threads: int = 1, dtype: str = "fp32"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        graph = _graph(model, frames)
        content = (_quantised(graph) if dtype == "int8" else graph).SerializeToString()
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.inputs = [node.name for node in self.session.get_inputs()]
        for node in self.session.get_outputs():
            self.binding.bind_output(node.name, "cpu")

    def prepare(self, windows: Tensor, states: list[np.ndarray]) -> None:
        """Bind what the next `compute` reads: windows (T, input size) and the states of `initial_states`."""
        for name, value in zip(self.inputs, [windows.numpy()[:, None], *states], strict=True):
            self.binding.bind_cpu_input(name, value)

    def compute(self) -> None:
        """Run what `prepare` bound."""
        self.session.run_with_iobinding(self.binding)

    def results(self) -> tuple[Tensor, list[np.ndarray]]:
        """Logits (T, outputs) and the next states."""
        logits, *states = self.binding.copy_outputs_to_cpu()
        return torch.from_numpy(logits), states

    def initial_states(self) -> list[np.ndarray]:
        """Zeros (1, 1, N): per layer h, and c of an LSTM."""
        return [np.zeros(node.shape, np.float32) for node in self.session.get_inputs()[1:]]


def _graph(model: AcousticModel, frames: int):
    """The ONNX graph; one LSTM, GRU or RNN node per layer, states as inputs and outputs."""
    from onnx import TensorProto, checker, helper, numpy_helper

    rnn, kind, size = model.rnn, model.config.rnn_type, model.config.hidden_size
    memories = ("h", "c") if kind == "lstm" else ("h",)
    extra = {"linear_before_reset": 1} if kind == "gru" else {}
    weights, nodes, x = [], [], "windows"

    def constant(name: str, value: Tensor) -> str:
        weights.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def value(name: str, shape: list[int]):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [value(x, [frames, 1, rnn.input_size])]
    outputs = [value("logits", [frames, model.config.num_outputs])]
    for layer in range(rnn.num_layers):
        w, r, *biases = (_reorder(getattr(rnn, f"{name}_l{layer}"), kind) for name in _WEIGHTS)
        operands = [constant(f"w{layer}", w[None]), constant(f"r{layer}", r[None])]
        operands.append(constant(f"b{layer}", torch.cat(biases)[None]))
        states = [f"{name}{layer}" for name in memories]
        after = [f"{name}_next" for name in states]
        operands = [x, *operands, "", *states]
        nodes.append(helper.make_node(_OPERATORS[kind], operands, [f"y{layer}", *after], hidden_size=size, **extra))
        inputs += [value(name, [1, 1, size]) for name in states]
        outputs += [value(name, [1, 1, size]) for name in after]
        axis = constant(f"axis{layer}", torch.tensor([1]))
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", axis], [f"x{layer}"]))
        x = f"x{layer}"
    linear = [constant("weight", model.output.weight), constant("bias", model.output.bias)]
    flat = helper.make_node("Reshape", [x, constant("shape", torch.tensor([frames, size]))], ["flat"])
    nodes += [flat, helper.make_node("Gemm", ["flat", *linear], ["logits"], transB=1)]
    graph = helper.make_graph(nodes, "dense", inputs, outputs, weights)
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(onnx_model)
    return onnx_model


def _quantised(graph):
    """`graph` with int8 weights; a `UserError` where onnxruntime would leave the RNN in float."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(graph, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        graph = onnx.load(path)
    left = sorted({node.op_type for node in graph.graph.node} & {*_OPERATORS.values(), "Gemm"})
    if left:
        raise UserError(f"onnxruntime has no dynamic int8 {left[0]}")
    return graph


def _reorder(weight: nn.Parameter, kind: str) -> Tensor:
    gates = weight.detach().chunk(len(_GATE_ORDER[kind]))
    return torch.cat([gates[gate] for gate in _GATE_ORDER[kind]])
