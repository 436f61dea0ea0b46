"""ESPnet encoder `dirnet_rnn`: a plain stack of LSTM, GRU or RNN layers, dense or compressed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import nn

from dirnet.errors import UserError
from dirnet.nn.acoustic import run_rnn
from dirnet.nn.model_config import RecurrentConfig


class RecurrentEncoder(AbsEncoder):
    """(B, T, input_size) -> (B, T', hidden_size), T' = ceil(T / frame_stride); frames 0, s, 2s ... are read.

    rnn_type: lstm, gru or rnn; dropout: after every layer, in training; bidirectional: both directions, not streamable
    compression: `[atoms | null, blocks | null]` per group of the compressed layers, null for dense ones
    block: consecutive gate rows kept or dropped together
    dtype: float32, or int8 for the values of compressed layers: training is then quantisation-aware
    shifts, shift_kind: by how many rows codes may move their atoms, circular or zero
    input_group: own, or shared where a single compressed layer has one dictionary
    The parameters are `rnn.*`, named as in the layer itself.
    """

    def __init__(
        self,
        input_size: int,
        rnn_type: str = "lstm",
        hidden_size: int = 500,
        num_layers: int = 5,
        dropout: float = 0.0,
        frame_stride: int = 1,
        bidirectional: bool = False,
        compression: Sequence[Sequence[int | None]] | None = None,
        block: int = 1,
        dtype: str = "float32",
        shifts: int = 0,
        shift_kind: str = "circular",
        input_group: str = "own",
    ):
        super().__init__()
        if frame_stride not in (1, 2, 3):
            raise UserError(f"frame_stride is {frame_stride!r}, expected 1, 2 or 3")
        config = RecurrentConfig(
            rnn_type, hidden_size, num_layers, compression=compression, block=block, dtype=dtype, shifts=shifts,
            shift_kind=shift_kind, input_group=input_group,
        )  # fmt: skip
        self.rnn = config.layers(input_size, bidirectional)
        self.rnn.dropout = dropout if num_layers > 1 else 0.0
        self.dropout = nn.Dropout(dropout)
        self.frame_stride = frame_stride

    def output_size(self) -> int:
        return self.rnn.hidden_size * (2 if self.rnn.bidirectional else 1)

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor, prev_states=None):
        """Returns (output, lengths, states). States are kept only if `prev_states`, zeros to begin with, are given."""
        lengths = (ilens + self.frame_stride - 1) // self.frame_stride
        output, states = run_rnn(self.rnn, xs_pad[:, :: self.frame_stride], lengths, prev_states)
        return self.dropout(output), lengths, states
