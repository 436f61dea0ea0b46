"""The dense model in torch itself, as a peer for timings: eager fp32, and int8 weights quantised on the fly.

Dynamic int8 rounds activations anew at every call. torch ships several kernel libraries for it (fbgemm, onednn, qnnpack
and a mixture, x86); which one is fastest depends on processor and chunk, so `fastest` tries all of them.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dirnet.deploy.runtime import muted
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel

_TRIALS = 5


class TorchModel:
    """RNN stack and output layer of a dense `model`, its own or `quantised` ones: windows (T, 494) to logits."""

    def __init__(self, model: AcousticModel, quantised: nn.ModuleList | None = None):
        self.rnn, self.output = quantised or (model.rnn, model.output)
        self._shape = (model.rnn.num_layers, 1, model.rnn.hidden_size)
        self._is_lstm = model.config.rnn_type == "lstm"

    def prepare(self, windows: Tensor, states: Sequence[Tensor]) -> None:
        """Keep what the next `compute` reads: windows (T, input size) and the states of `initial_states`."""
        self._windows, self._states = windows[None], tuple(states)

    @torch.inference_mode()
    def compute(self) -> None:
        """Run what `prepare` kept."""
        hidden, states = self.rnn(self._windows, self._states if self._is_lstm else self._states[0])
        self._logits, self._states = self.output(hidden[0]), states if self._is_lstm else (states,)

    def results(self) -> tuple[Tensor, list[Tensor]]:
        """Logits (T, outputs) and the next states."""
        return self._logits, list(self._states)

    def initial_states(self) -> list[Tensor]:
        """Zeros (layers, 1, N): h, and c of an LSTM."""
        return [torch.zeros(self._shape) for _ in range(1 + self._is_lstm)]


def quantised(model: AcousticModel) -> dict[str, TorchModel]:
    """The dynamic int8 versions of a dense `model` by kernel library; a `UserError` where torch has none."""
    quantise = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantise is None:
        raise UserError(f"torch {torch.__version__} has no torch.ao.quantization.quantize_dynamic")
    models, before = {}, torch.backends.quantized.engine
    try:
        for name in torch.backends.quantized.supported_engines:
            if name == "none":
                continue
            torch.backends.quantized.engine = name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parts = nn.ModuleList([copy.deepcopy(model.rnn), copy.deepcopy(model.output)])
                parts = quantise(parts, {type(model.rnn), nn.Linear}, dtype=torch.qint8)
            if type(parts[0]) is type(model.rnn):  # what torch does not know it leaves as it is, and says nothing
                raise UserError(f"torch has no dynamic int8 {type(model.rnn).__name__}")
            models[name] = TorchModel(model, parts)
    finally:
        torch.backends.quantized.engine = before
    if not models:
        raise UserError("this torch has no kernel library for int8")
    return models


def fastest(models: dict[str, TorchModel], windows: Tensor) -> tuple[str, TorchModel]:
    """Name and model of the library that takes the least time for `windows` (T, input size)."""

    def seconds(model: TorchModel) -> float:
        best, states = float("inf"), model.initial_states()
        for _ in range(_TRIALS):
            began = time.perf_counter()
            model.prepare(windows, states)
            model.compute()
            best = min(best, time.perf_counter() - began)
        return best

    with muted():  # qnnpack has a remark about precision
        return min(models.items(), key=lambda item: seconds(item[1]))
