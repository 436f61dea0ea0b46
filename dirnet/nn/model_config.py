"""What a model's configuration says of its recurrent layers, dense or compressed."""

from __future__ import annotations

import dataclasses
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

from torch import nn

from dirnet.errors import UserError
from dirnet.nn.coding import CodedLayer, Coding
from dirnet.nn.quantised import check_dtype
from dirnet.nn.recurrent import RNN_TYPES


@dataclass(frozen=True)
class RecurrentConfig(Coding):
    """Cell, shape and compression of a stack of layers; a `UserError` for values that no such stack has.

    compression: `[atoms | None, blocks | None]` per group, None for a dense model. name: the model's.
    """

    rnn_type: str
    hidden_size: int
    num_layers: int
    _: KW_ONLY
    compression: tuple | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.rnn_type not in RNN_TYPES:
            raise UserError(f"rnn_type is {self.rnn_type!r}, expected one of {', '.join(RNN_TYPES)}")
        self.check_positive("hidden_size", "num_layers", "block")
        if check_dtype(self.dtype) == "int8" and self.compression is None:
            raise UserError("dtype is 'int8', expected float32 for torch's own layers; compress with --dtype int8")

    def check_positive(self, *names: str) -> None:
        """A `UserError` for the first of the fields `names` that is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values; `dirnet.config.from_mapping` reads them back."""
        return dataclasses.asdict(self)

    def layers(self, input_size: int, bidirectional: bool = False) -> nn.RNNBase:
        """New layers, batch first, that read `input_size` values a step."""
        dense, coded = RNN_TYPES[self.rnn_type]
        shape = (input_size, self.hidden_size, self.num_layers)
        common = {"batch_first": True, "bidirectional": bidirectional}
        if self.compression is None:
            return dense(*shape, **common)
        coding = {field.name: getattr(self, field.name) for field in dataclasses.fields(Coding)}
        return coded(*shape, layout=self.compression, **coding, **common)

    def of(self, rnn: nn.RNNBase) -> Self:
        """This configuration with the compression that `rnn` has, as it may have been compressed since."""
        if not isinstance(rnn, CodedLayer):
            return dataclasses.replace(self, compression=None, **dataclasses.asdict(Coding()))
        return dataclasses.replace(self, compression=tuple(rnn.layout), **dataclasses.asdict(rnn.coding))
