"""Shift operators on atoms (Sec. 3.3, after Hitziger et al. 2013): the small set Delta of which every code takes one.

    w_j ~ sum_i z_ij delta_ij(d_i),   delta_ij in Delta                                                       (Eq. 9)

An atom stored once thus stands for |Delta| columns of an *expanded* dictionary `E = [delta(d_i)]` (N, p |Delta|), atom
by atom. While they are sought, codes are *wide*: (p, |Delta| M), those of one shift beside those of the next, at most
one shift of an atom non-zero per column (per block). The same memory seen as (p |Delta|, M), *tall*, is what E
multiplies. With Delta = {identity} E is D, and wide and tall codes are Z itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dirnet.errors import UserError

KINDS = ("circular", "zero")
FARTHEST = 127  # an offset is stored as int8


@dataclass(frozen=True)
class Shifts:
    """Delta: the identity and the moves by 1 .. `reach` rows, down (+) and up (-): `delta_m(d)[n] = d[n - m]`.

    kind: `circular`, what leaves at one end enters at the other: `delta^T delta = I`. Or `zero`: it is lost and zeros
    enter, so a moved atom may be shorter. The adjoint of a move by m is the move by -m for both.
    """

    reach: int = 0
    kind: Literal["circular", "zero"] = "circular"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"shift_kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if not 0 <= self.reach <= FARTHEST:
            raise UserError(f"shifts is {self.reach}, expected 0 (none) to {FARTHEST} positions; small ones pay")

    def __len__(self) -> int:
        return 2 * self.reach + 1

    @property
    def offsets(self) -> tuple[int, ...]:
        """0, 1, -1, 2, -2 ...: the order of Delta."""
        return (0, *(sign * step for step in range(1, self.reach + 1) for sign in (1, -1)))

    def positions(self, offsets: Tensor) -> Tensor:
        """The place of every one of `offsets` in the order of Delta, int64."""
        steps = offsets.long()
        return 2 * steps.abs() - (steps > 0).long()

    def check(self, rows: int) -> None:
        """A `UserError` unless all shifts of a vector of `rows` values are different ones."""
        if len(self) > rows:
            raise UserError(f"shifts is {self.reach}, too far for {rows} rows; choose from 0 to {(rows - 1) // 2}")

    def apply(self, vectors: Tensor, offset: int) -> Tensor:
        """`delta(v)` of every column of `vectors` (N, ...)."""
        if self.kind == "circular" or offset == 0:
            return vectors.roll(offset, 0) if offset else vectors
        lost = torch.zeros_like(vectors[: abs(offset)])
        return torch.cat([lost, vectors[:-offset]] if offset > 0 else [vectors[-offset:], lost])

    def adjoint(self, vectors: Tensor, offset: int) -> Tensor:
        """`delta^T v`: `<delta a, b> = <a, delta^T b>`."""
        return self.apply(vectors, -offset)

    def expand(self, dictionary: Tensor) -> Tensor:
        """E (N, p |Delta|) of D (N, p); differentiable."""
        if not self.reach:
            return dictionary
        return torch.stack([self.apply(dictionary, offset) for offset in self.offsets], dim=2).flatten(1)

    def tall(self, codes: Tensor) -> Tensor:
        """Wide codes (p, |Delta| M) seen as (p |Delta|, M)."""
        return codes.view(len(codes) * len(self), codes.shape[1] // len(self))

    def reconstruct(self, dictionary: Tensor, codes: Tensor) -> Tensor:
        """`sum_delta delta(D) Z_delta` (N, M) of wide codes."""
        return self.expand(dictionary) @ self.tall(codes)

    def join(self, codes: Tensor, offsets: Tensor) -> Tensor:
        """Wide codes of Z (p, M) and the offset (p, M) of every code."""
        order = torch.tensor(self.offsets, dtype=offsets.dtype)
        return (codes[:, None] * (offsets[:, None] == order[:, None])).flatten(1)

    def split(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `join`; offsets are int8, 0 where there is no code."""
        grid = self._grid(codes)
        order = torch.tensor(self.offsets, dtype=torch.int8)
        return grid.sum(1), order[grid.abs().argmax(1)] * grid.ne(0).any(1)

    def occupied(self, mask: Tensor) -> Tensor:
        """The wide mask of all shifts of the (atom, column) pairs of which `mask` has one."""
        if not self.reach:
            return mask
        grid = self._grid(mask)
        return grid.any(1, keepdim=True).expand_as(grid).flatten(1)

    def strengths(self, dictionary: Tensor, codes: Tensor) -> Tensor:
        """Wide `z_ij |delta_ij(d_i)|`: what codes weigh once every moved atom counts as a unit vector."""
        if not self.reach or self.kind == "circular":
            return codes
        lengths = self.expand(dictionary).norm(dim=0).view(len(codes), len(self), 1)
        return (self._grid(codes) * lengths).flatten(1)

    def _grid(self, codes: Tensor) -> Tensor:
        return codes.unflatten(1, (len(self), codes.shape[1] // len(self)))


IDENTITY = Shifts()
