"""What a size means: `7.9x`, `1.3M`, `2MB`, `rtf=0.05` as a limit in params, bytes or time, and what factors cost."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from dirnet.errors import UserError
from dirnet.nn.indices import index_bytes
from dirnet.nn.running import CostModel, group_counts

Unit = Literal["params", "bytes", "fs"]  # femtoseconds per output frame: whole numbers divide exactly
FS = 1e15
MOST = 1e15  # of anything that a size may count

_FACTORS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(x|(?:[kmg]i?)?b|[kmg]?)", re.IGNORECASE)
_RTF = re.compile(r"rtf\s*=\s*(\d*\.?\d+(?:e-?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """A requested size of the whole model: `value` times fewer parameters (ratio), params, bytes, or the RTF."""

    text: str
    kind: Literal["ratio", "params", "bytes", "rtf"]
    value: float

    @property
    def unit(self) -> Unit:
        """What the limit counts."""
        return {"bytes": "bytes", "rtf": "fs"}.get(self.kind, "params")

    def limit(self, dense_params: int, frame_seconds: float = 0.0) -> int:
        """The most params, bytes or fs (see `unit`) that the model may cost; an output frame lasts `frame_seconds`."""
        if self.kind == "rtf":
            return int(self.value * frame_seconds * FS)
        return int(dense_params / self.value) if self.kind == "ratio" else round(self.value)


def parse_size(text: str) -> Size:
    """`7.9x` | `1.3M`, `500k` (parameters) | `2MB`, `900kB` (10^3), `2MiB` (2^10) | `rtf=0.05`; else a `UserError`."""
    if not isinstance(text, str):
        raise UserError(f"size is {text!r}, expected text: '7.9x', '1.3M', '2MB' or 'rtf=0.05'")
    if (match := _RTF.fullmatch(text.strip())) and 0 < float(match[1]) < MOST:
        return Size(text, "rtf", float(match[1]))
    match = _PATTERN.fullmatch(text.strip())
    if match is None or not 0 < float(match[1]) < MOST:
        raise UserError(
            f"size {text!r} is not understood; give a ratio (7.9x), parameters (1.3M), bytes (2MB) or rtf=0.05"
        )
    value, suffix = float(match[1]), match[2].lower()
    if suffix == "x":
        if value < 1:
            raise UserError(f"size {text!r} would grow the model; give a ratio of at least 1x")
        return Size(text, "ratio", value)
    kind = "bytes" if suffix.endswith("b") else "params"
    if not suffix and value < 100:
        raise UserError(f"size {text!r} means so many parameters; a ratio is written {text.strip()}x")
    return Size(text, kind, value * _FACTORS[suffix.removesuffix("b")])


@dataclass(frozen=True)
class Price:
    """What an (N, M) matrix costs in `unit`, with values of `value_bytes` and codes kept in blocks of `block`.

    scale_bytes: of each atom and each row of Z, for int8 values. shifted: every block beside a dictionary has an
    offset, a byte. cost_model: the device's, for the unit fs; recurrent_share: the part of the columns that the
    recurrence reads.
    """

    unit: Unit
    rows: int
    columns: int
    block: int = 1
    value_bytes: int = 4
    scale_bytes: int = 0
    shifted: bool = False
    cost_model: CostModel | None = None
    recurrent_share: float = 0.0

    @property
    def value(self) -> int:
        """The cost of one stored value without its index."""
        return self.value_bytes if self.unit == "bytes" else 1

    @property
    def dense(self) -> int:
        """The cost of the matrix as it is, all of its values kept."""
        return self.factors(None, None)

    @property
    def atom(self) -> int:
        """The cost of one more atom, beside one that is there: an empty Z costs something, too."""
        return max(self.factors(2, 0) - self.factors(1, 0), 1)

    def factors(self, atoms: int | None, nonzeros: int | None) -> int:
        """The cost of D (N, atoms), if any, and of Z with `nonzeros` stored codes; None for a dense Z."""
        if self.cost_model is not None:
            shape = self.rows, self.columns, atoms, nonzeros, self.block, self.recurrent_share
            counts = group_counts(*shape, int8=self.value_bytes == 1)
            return math.ceil(FS * self.cost_model.seconds(counts))
        code_rows = self.rows if atoms is None else atoms
        stored = code_rows * self.columns if nonzeros is None else nonzeros
        cost = (self.rows * (atoms or 0) + stored) * self.value
        if self.unit == "bytes":
            cost += self.scale_bytes * ((atoms or 0) + code_rows)
            blocks = None if nonzeros is None else nonzeros // self.block
            shifted = self.shifted and atoms is not None
            cost += index_bytes(code_rows, self.columns, blocks, self.block, shifted)
        return cost

    def room(self, atoms: int | None, budget: int) -> int:
        """The most codes, in whole blocks, that fit beside D (N, atoms), or one block more than Z has."""
        low, high = 0, (self.rows if atoms is None else atoms) * self.columns // self.block + 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.factors(atoms, middle * self.block) <= budget else (low, middle - 1)
        return low * self.block

    def nonzeros(self, atoms: int | None, budget: int) -> int:
        """The most codes that fit beside D (N, atoms), a multiple of the block and no more than Z has."""
        return min(self.room(atoms, budget), (self.rows if atoms is None else atoms) * self.columns)

    def rank(self, budget: int) -> int:
        """The most atoms that fit with a dense Z."""
        return max(budget // self.factors(1, None), 0)
