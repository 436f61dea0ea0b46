"""What every factorization returns, and the checks every factorization makes on what it is given."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dirnet.errors import UserError
from dirnet.factorization import room
from dirnet.factorization.shift import IDENTITY, Shifts


@dataclass(frozen=True)
class Factors:
    """`W ~ D Z`: `dictionary` D is (N, p), or None when the codes are the matrix itself; `codes` Z is (p, M).

    With shifts `w_j ~ sum_i z_ij delta_ij(d_i)`: `offsets` (p, M) int8 says by how many rows the atom of each code is
    moved, and `shifts` how; None and the identity otherwise. dense: all codes are to be stored, zeros among them.
    """

    dictionary: Tensor | None
    codes: Tensor
    offsets: Tensor | None = None
    shifts: Shifts = IDENTITY
    dense: bool = False

    @classmethod
    def of(cls, dictionary: Tensor, codes: Tensor, shifts: Shifts = IDENTITY) -> Factors:
        """Factors of a dictionary and wide codes (see `dirnet.factorization.shift`)."""
        return cls(dictionary, *shifts.split(codes), shifts) if shifts.reach else cls(dictionary, codes)

    @property
    def wide(self) -> Tensor:
        """The codes as the solver has them, (p, |Delta| M)."""
        return self.codes if self.offsets is None else self.shifts.join(self.codes, self.offsets)

    def reconstruct(self) -> Tensor:
        """The (N, M) matrix that the factors stand for."""
        return self.codes if self.dictionary is None else self.shifts.reconstruct(self.dictionary, self.wide)

    def balanced(self) -> Factors:
        """The same matrix, each atom and its row of codes scaled to one root mean square, for training.

        Adam moves every value by about its rate. Beside atoms of unit norm, whose values are small, the codes would
        hardly move.
        """
        if self.dictionary is None:
            return self
        kept = self.codes.count_nonzero(dim=1).clamp_min(1)
        sizes = self.codes.norm(dim=1) / kept.sqrt(), self.dictionary.norm(dim=0) / len(self.dictionary) ** 0.5
        scales = (sizes[0] / sizes[1]).sqrt()
        scales = torch.where(scales.isfinite() & (scales > 0), scales, 1.0)  # an atom without codes stays as it is
        return replace(self, dictionary=self.dictionary * scales, codes=self.codes / scales[:, None])

    @property
    def params(self) -> int:
        """`N * p + nnz(Z)`, the first of the three figures of size."""
        return (0 if self.dictionary is None else self.dictionary.numel()) + int(self.codes.count_nonzero())


def relative_error(matrix: Tensor, factors: Factors) -> float:
    """`|W - D Z|_F / |W|_F`; zero for a zero matrix."""
    return relative_norm(matrix - factors.reconstruct(), matrix)


def relative_norm(lost: Tensor, matrix: Tensor) -> float:
    """`|lost|_F / |W|_F`; zero for a zero matrix of which nothing is lost."""
    length = torch.linalg.vector_norm(matrix, dtype=torch.float64)  # float32 overflows at 1e20
    return float(torch.linalg.vector_norm(lost, dtype=torch.float64) / length.clamp_min(torch.finfo(matrix.dtype).tiny))


def check_matrix(matrix: Tensor, block: int = 1) -> Tensor:
    """The matrix itself, detached, if it can be factorized: (N, M), float32 or float64, finite, `block` dividing M."""
    if matrix.ndim != 2 or not matrix.numel():
        raise UserError(f"matrix of shape {tuple(matrix.shape)}: expected two dimensions, none empty")
    if matrix.dtype not in (torch.float32, torch.float64) or matrix.device.type != "cpu":
        raise UserError(f"matrix is {matrix.dtype} on {matrix.device}: expected float32 or float64 on the cpu")
    broken = int((~matrix.isfinite()).sum())
    if broken:
        raise UserError(f"matrix has {broken} NaN or infinite of {matrix.numel()} values; was the training unstable?")
    columns = matrix.shape[1]
    if block < 1 or columns % block:
        feasible = ", ".join(str(size) for size in range(1, min(columns, 64) + 1) if columns % size == 0)
        raise UserError(f"block={block} does not divide the {columns} columns of the matrix; choose one of {feasible}")
    return matrix.detach()


def check_range(name: str, value: int, low: int, high: int, multiple: int = 1) -> None:
    """Raise a `UserError` unless `low <= value <= high` and `multiple` divides it."""
    if not low <= value <= high:
        raise UserError(f"{name}={value} is not feasible for this matrix; choose from {low} to {high}")
    if value % multiple:
        raise UserError(f"{name}={value} is not a multiple of the block {multiple}; take {value - value % multiple}")


def check_params(matrix: Tensor, params: int, atoms: int | None, block: int) -> tuple[int, int]:
    """The (atoms, nonzeros) that the budget `N * p + nnz(Z) <= params` means.

    Without `atoms`, half of the budget goes into D, but into no more atoms than a basis has.
    """
    rows, columns = matrix.shape
    if rows + block > matrix.numel():
        raise UserError(f"matrix of shape {(rows, columns)} is too small: an atom and a code are {rows + block} values")
    check_range("params", params, rows + block, matrix.numel())
    most = (params - block) // rows
    if atoms is None:
        half = min(params // (2 * rows), *matrix.shape)
        atoms = min(max(half, room.fewest(columns, room.of_params(rows, params, block), block)), most)
    check_range("atoms", atoms, 1, most)
    nonzeros = min(params - rows * atoms, atoms * columns)
    return atoms, nonzeros - nonzeros % block
