"""What a size means: `7.9x`, `1.3M` and `2MB` as a limit in parameters or bytes, and what factors cost of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dirnet.errors import UserError
from dirnet.nn.coded import index_bytes

Unit = Literal["params", "bytes"]

_FACTORS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(x|(?:[kmg]i?)?b|[kmg]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """A requested size of the whole model: `value` times fewer parameters (ratio), or a number of params or bytes."""

    text: str
    kind: Literal["ratio", "params", "bytes"]
    value: float

    @property
    def unit(self) -> Unit:
        """What the limit counts."""
        return "bytes" if self.kind == "bytes" else "params"

    def limit(self, dense_params: int) -> int:
        """The most params or bytes (see `unit`) that the compressed model may have."""
        return int(dense_params / self.value) if self.kind == "ratio" else int(self.value)


def parse_size(text: str) -> Size:
    """`7.9x` | `1.3M`, `500k`, `1300000` (parameters) | `2MB`, `900kB` (10^3), `2MiB` (2^10); else a `UserError`."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(f"size {text!r} is not understood; give a ratio (7.9x), parameters (1.3M) or bytes (2MB)")
    value, suffix = float(match[1]), match[2].lower()
    if suffix == "x":
        if value < 1:
            raise UserError(f"size {text!r} would grow the model; give a ratio of at least 1x")
        return Size(text, "ratio", value)
    kind = "bytes" if suffix.endswith("b") else "params"
    return Size(text, kind, value * _FACTORS[suffix.removesuffix("b")])


@dataclass(frozen=True)
class Price:
    """What an (N, M) matrix costs in `unit`, with values of `value_bytes` and codes kept in blocks of `block`.

    scale_bytes: of each atom and each row of Z, for int8 values. shifted: every block beside a dictionary has an
    offset, a byte.
    """

    unit: Unit
    rows: int
    columns: int
    block: int = 1
    value_bytes: int = 4
    scale_bytes: int = 0
    shifted: bool = False

    @property
    def value(self) -> int:
        """Of one stored value without an index."""
        return self.value_bytes if self.unit == "bytes" else 1

    @property
    def dense(self) -> int:
        """Of the matrix as it is, all of its values kept."""
        return self.factors(None, None)

    def factors(self, atoms: int | None, nonzeros: int | None) -> int:
        """Of D (N, atoms), or none, and Z with `nonzeros` stored codes; None for a dense Z."""
        code_rows = self.rows if atoms is None else atoms
        stored = code_rows * self.columns if nonzeros is None else nonzeros
        cost = (self.rows * (atoms or 0) + stored) * self.value
        if self.unit == "bytes":
            cost += self.scale_bytes * ((atoms or 0) + code_rows)
            blocks = None if nonzeros is None else nonzeros // self.block
            cost += index_bytes(code_rows, self.columns, blocks, self.block, self.shifted and atoms is not None)
        return cost

    def nonzeros(self, atoms: int | None, budget: int) -> int:
        """The most codes, a multiple of the block and below a dense Z, that fit beside D (N, atoms)."""
        left = budget - self.factors(atoms, 0)
        per_block = self.factors(atoms, self.block) - self.factors(atoms, 0)
        blocks = min(left // per_block, (self.rows if atoms is None else atoms) * self.columns // self.block)
        return max(blocks, 0) * self.block
