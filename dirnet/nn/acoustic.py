"""The acoustic model without a toolkit: MFCC -> CMVN -> splice -> RNN -> log phone posteriors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dirnet.errors import UserError
from dirnet.nn.model_config import RecurrentConfig
from dirnet.nn.recurrent import uncast

# Log odds of an output that was never trained: e^-30 is below float32's resolution, so the others keep their values.
NEVER = -30.0


@dataclass(frozen=True)
class AcousticModelConfig(RecurrentConfig):
    """All it takes to build the module before its weights are loaded, and to feed it.

    phones: name of every output, the CTC blank first. mfcc: the fields of `dirnet.asr.features.MfccConfig`.
    cmvn_mean, cmvn_istd: global mean and 1 / standard deviation per feature; empty means 0 and 1.
    context: frames spliced on each side. frame_stride: every how many frames the RNN steps.
    """

    phones: tuple[str, ...]
    feature_size: int = 26
    context: int = 9
    frame_stride: int = 1
    num_outputs: int = 42
    bidirectional: bool = False
    sample_rate: int = 16000
    frame_shift_ms: float = 10.0
    mfcc: dict[str, Any] = field(default_factory=dict)
    cmvn_mean: tuple[float, ...] = ()
    cmvn_istd: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("feature_size", "frame_stride", "num_outputs", "sample_rate")
        if self.context < 0:
            raise UserError(f"context is {self.context}, expected 0 or more frames on each side")
        if len(self.phones) != self.num_outputs:
            raise UserError(f"phones has {len(self.phones)} names, expected one for each of {self.num_outputs} outputs")
        for name in ("cmvn_mean", "cmvn_istd"):
            if len(getattr(self, name)) not in (0, self.feature_size):
                raise UserError(f"{name} has {len(getattr(self, name))} values, expected {self.feature_size}")
        if not all(0 < value < math.inf for value in self.cmvn_istd):
            raise UserError("cmvn_istd holds a value that is not positive; take another deviation of that feature")

    @property
    def input_size(self) -> int:
        """Size of one spliced frame, the RNN's input."""
        return self.feature_size * (2 * self.context + 1)


def splice(features: Tensor, context: int, stride: int = 1) -> Tensor:
    """(B, T, F) -> (B, ceil(T / stride), (2 context + 1) F): every frame together with its neighbours.

    Frame t becomes t-context first ... t+context last, zeros beyond both ends; frames 0, stride, 2 stride ... are kept.
    """
    windows = nn.functional.pad(features, (0, 0, context, context)).unfold(1, 2 * context + 1, 1)
    return windows[:, ::stride].transpose(2, 3).flatten(2)


def run_rnn(rnn: nn.RNNBase, inputs: Tensor, lengths: Tensor, states=None) -> tuple[Tensor, Any]:
    """Output (B, T, H) and states of `rnn` (batch first) for padded `inputs` (B, T, F) with `lengths` (B,) valid steps.

    What reads only the past never sees the padding behind it, so a unidirectional RNN may run over it: on a CPU that
    is five times as fast as packed sequences. Its final states would be those behind the padding: they are returned
    only where `states` are given, and then, as for a bidirectional RNN, the sequences are packed.
    """
    if not rnn.bidirectional and states is None:
        return rnn(inputs)[0], None
    # an utterance of no steps gets one, as there are no packed ones without any: nothing is valid of its output
    packed = pack_padded_sequence(inputs, lengths.cpu().clamp_min(1), batch_first=True, enforce_sorted=False)
    output, states = rnn(packed, states)
    return pad_packed_sequence(output, batch_first=True, total_length=inputs.shape[1])[0], states


class AcousticModel(nn.Module):
    """`rnn` (batch first, dense or compressed) and `output` (linear) between un-normalised MFCC and log posteriors."""

    def __init__(self, config: AcousticModelConfig):
        super().__init__()
        self._config = config
        self.rnn = config.layers(config.input_size, config.bidirectional)
        self.output = nn.Linear(config.hidden_size * (2 if config.bidirectional else 1), config.num_outputs)
        # CMVN belongs to the configuration, not to the weights: not in the state dict.
        mean = torch.tensor(config.cmvn_mean or (0.0,) * config.feature_size, dtype=torch.float32)
        istd = torch.tensor(config.cmvn_istd or (1.0,) * config.feature_size, dtype=torch.float32)
        self.register_buffer("cmvn_mean", mean, persistent=False)
        self.register_buffer("cmvn_istd", istd, persistent=False)

    @classmethod
    def from_parts(
        cls, config: AcousticModelConfig, rnn_state: dict[str, Tensor], weight: Tensor, bias: Tensor
    ) -> AcousticModel:
        """The model from the state dict of its RNN and an output layer of at least `num_outputs` rows.

        Rows beyond `num_outputs` (`<unk>`, `<sos/eos>`) are dropped; they come last. Keys and shapes are checked.
        """
        model = cls(config)
        size = config.num_outputs
        if weight.dim() != 2 or weight.shape[1] != model.output.in_features or min(len(weight), len(bias)) < size:
            raise UserError(
                f"output layer is {list(weight.shape)} with {len(bias)} biases, "
                f"expected at least {size} rows of {model.output.in_features}"
            )
        try:
            model.rnn.load_state_dict(rnn_state)
        except RuntimeError as error:
            shape = f"{config.num_layers}x{config.hidden_size} {config.rnn_type}"
            raise UserError(f"weights do not fit a {shape}: {' '.join(str(error).split())}") from None
        with torch.no_grad():
            model.output.weight.copy_(weight[:size])
            model.output.bias.copy_(bias[:size])
        return model

    def parts(self, num_outputs: int | None = None) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """RNN state dict, output weight and bias, detached: the inverse of `from_parts`.

        With `num_outputs` above the model's, outputs that never win are added, so posteriors stay the same.
        """
        weight, bias = self.output.weight.detach(), self.output.bias.detach()
        extra = max((num_outputs or 0) - len(bias), 0)
        weight = torch.cat([weight, weight.new_zeros(extra, weight.shape[1])])
        bias = torch.cat([bias, bias.new_full((extra,), NEVER)])
        return {name: value.detach() for name, value in self.rnn.state_dict().items()}, weight, bias

    @property
    def config(self) -> AcousticModelConfig:
        """The configuration of the model as it is now, also after its `rnn` was compressed in place."""
        return self._config.of(self.rnn)

    def normalise(self, features: Tensor) -> Tensor:
        """Global mean and variance normalisation of (B, T, feature_size)."""
        return (features - self.cmvn_mean) * self.cmvn_istd

    def splice(self, features: Tensor) -> Tensor:
        """The RNN's input (B, T', input_size) from normalised features (B, T, feature_size)."""
        return splice(features, self._config.context, self._config.frame_stride)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log posteriors (B, T', num_outputs) and their lengths, T' = ceil(T / frame_stride).

        features: (B, T, feature_size) float32 MFCC, not normalised. lengths: (B,) valid frames; beyond them the
        features do not count and the output says nothing.
        """
        if features.dim() != 3 or features.shape[2] != self._config.feature_size:
            size = self._config.feature_size
            raise UserError(f"features are {list(features.shape)}, expected (batch, frames, {size})")
        lengths = lengths.to(features.device)
        beyond = torch.arange(features.shape[1], device=features.device) >= lengths[:, None]
        spliced = self.splice(self.normalise(features).masked_fill(beyond[..., None], 0.0))
        steps = (lengths + self._config.frame_stride - 1) // self._config.frame_stride
        hidden, _ = run_rnn(self.rnn, spliced, steps)
        with uncast(hidden.device):  # bfloat16 would round log posteriors of -10 to sixteenths
            return self.output(hidden.to(self.output.weight.dtype)).log_softmax(dim=-1), steps
