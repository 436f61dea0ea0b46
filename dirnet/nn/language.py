"""The language model without a toolkit: words -> embedding -> RNN -> log probabilities of the next word."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.nn.acoustic import check_layout
from dirnet.nn.recurrent import RNN_TYPES, DirNetRecurrent


@dataclass(frozen=True)
class LanguageModelConfig:
    """All it takes to build the module before its weights are loaded.

    words: the name of every input and output, in order. compression, block, dtype, shifts, shift_kind, input_group: as
    in `AcousticModelConfig`.
    """

    rnn_type: str
    embedding_size: int
    hidden_size: int
    num_layers: int
    words: tuple[str, ...]
    compression: tuple | None = None
    block: int = 1
    dtype: str = "float32"
    shifts: int = 0
    shift_kind: str = "circular"
    input_group: str = "own"
    name: str = ""

    def __post_init__(self) -> None:
        if self.rnn_type not in RNN_TYPES:
            raise UserError(f"rnn_type is {self.rnn_type!r}, expected one of {', '.join(RNN_TYPES)}")
        for name in ("embedding_size", "hidden_size", "num_layers", "block"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if len(self.words) < 2 or len(set(self.words)) != len(self.words):
            raise UserError(f"words has {len(self.words)} names, expected two or more, each once")
        check_layout(self.compression, self.dtype)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values; `dirnet.config.from_mapping` reads them back."""
        return dataclasses.asdict(self)


class LanguageModel(nn.Module):
    """`embedding`, `rnn` (batch first, dense or compressed) and `output` (linear)."""

    def __init__(self, config: LanguageModelConfig):
        super().__init__()
        self._config = config
        dense, coded = RNN_TYPES[config.rnn_type]
        shape = (config.embedding_size, config.hidden_size, config.num_layers)
        self.embedding = nn.Embedding(len(config.words), config.embedding_size)
        self.rnn: nn.RNNBase = (
            dense(*shape, batch_first=True)
            if config.compression is None
            else coded(
                *shape, layout=config.compression, block=config.block, dtype=config.dtype, shifts=config.shifts,
                shift_kind=config.shift_kind, input_group=config.input_group, batch_first=True,
            )
        )  # fmt: skip
        self.output = nn.Linear(config.hidden_size, len(config.words))

    @property
    def config(self) -> LanguageModelConfig:
        """The configuration of the model as it is now, also after its `rnn` was compressed in place."""
        rnn = self.rnn
        if not isinstance(rnn, DirNetRecurrent):
            return dataclasses.replace(self._config, compression=None, block=1, dtype="float32")
        shifts = rnn.shifts
        return dataclasses.replace(
            self._config, compression=tuple(rnn.layout), block=rnn.block, dtype=rnn.dtype, shifts=shifts.reach,
            shift_kind=shifts.kind, input_group=rnn.input_group,
        )  # fmt: skip

    def forward(self, words: Tensor, states=None) -> tuple[Tensor, Any]:
        """Log probabilities (B, T, words) of what follows each of `words` (B, T) int64, and the states after the last.

        states: of the call before; None, zeros, at the start of a sentence.
        """
        hidden, states = self.rnn(self.embedding(words), states)
        return self.output(hidden).log_softmax(dim=-1), states
