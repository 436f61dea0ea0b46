"""The language model without a toolkit: words -> embedding -> RNN -> log probabilities of the next word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.nn.model_config import RecurrentConfig


@dataclass(frozen=True)
class LanguageModelConfig(RecurrentConfig):
    """All it takes to build the module before its weights are loaded.

    words: the name of every input and output, in order.
    """

    embedding_size: int
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("embedding_size")
        if len(self.words) < 2 or len(set(self.words)) != len(self.words):
            raise UserError(f"words has {len(self.words)} names, expected two or more, each once")


class LanguageModel(nn.Module):
    """`embedding`, `rnn` (batch first, dense or compressed) and `output` (linear)."""

    def __init__(self, config: LanguageModelConfig):
        super().__init__()
        self._config = config
        self.embedding = nn.Embedding(len(config.words), config.embedding_size)
        self.rnn = config.layers(config.embedding_size)
        self.output = nn.Linear(config.hidden_size, len(config.words))

    @property
    def config(self) -> LanguageModelConfig:
        """The configuration of the model as it is now, also after its `rnn` was compressed in place."""
        return self._config.of(self.rnn)

    def forward(self, words: Tensor, states=None) -> tuple[Tensor, Any]:
        """Log probabilities (B, T, words) of what follows each of `words` (B, T) int64, and the states after the last.

        states: of the call before; None, zeros, at the start of a sentence.
        """
        hidden, states = self.rnn(self.embedding(words), states)
        return self.output(hidden).log_softmax(dim=-1), states
