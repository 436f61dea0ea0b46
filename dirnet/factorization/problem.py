"""What a solver of DirNet is asked: a matrix, and how large its factors may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dirnet.factorization.room import Room
from dirnet.factorization.shift import IDENTITY, Shifts

Progress = Callable[[float, str], None]  # the fraction done, up to 1.0, and the name of the stage


@dataclass(frozen=True)
class Problem:
    """Sparse factors of `matrix` (N, M) are wanted: beside p atoms so many codes as `room` has for p.

    atoms: p, where it is not to be found. block, shifts, learned_on, seed: see `dirnet.factorization.solve.solve`.
    """

    matrix: Tensor
    room: Room
    atoms: int | None = None
    block: int = 1
    shifts: Shifts = IDENTITY
    learned_on: int | None = None
    seed: int = 0

    @property
    def columns(self) -> int:
        """M."""
        return self.matrix.shape[1]

    def size(self, atoms: int) -> int:
        """How many codes there are beside `atoms` atoms: the room for them, but no more than Z has places."""
        return min(self.room(atoms), atoms * self.columns)
