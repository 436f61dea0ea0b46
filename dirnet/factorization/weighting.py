"""The error that a network feels: rows weighted by what the group reads, columns by what its gates are worth.

For inputs x with second moment C = E[x x^T] and gates j whose change costs r_j^2, the expected cost of `W ~ D Z` is

    sum_j r_j^2 E[((w_j - D z_j)^T x)^2] = | C^(1/2) (W - D Z) diag(r) |_F^2 .

So any solver for the plain error solves it on `C^(1/2) W diag(r)`; D is mapped back by C^(-1/2), Z by 1 / r.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dirnet.errors import UserError
from dirnet.factorization.factors import Factors


@dataclass(frozen=True)
class Weighting:
    """`root` (N, N) = C^(1/2), symmetric, its inverse, and `gains` r (M,), all positive; float32."""

    root: Tensor
    inverse: Tensor
    gains: Tensor

    def apply(self, matrix: Tensor) -> Tensor:
        """`C^(1/2) W diag(r)`, what the solver is given; (N, M)."""
        return self.root @ matrix * self.gains

    def undo(self, factors: Factors) -> Factors:
        """Factors of W from those of `apply(W)`: atoms of unit norm again, their lengths moved into the codes.

        Without a dictionary the root must be diagonal, or zeros of the codes would not stay zero.
        """
        if factors.offsets is not None:
            raise UserError("weighted factors have shifts, expected none: C^(-1/2) mixes the rows that a shift moves")
        codes = factors.codes / self.gains
        if factors.dictionary is None:
            return replace(factors, codes=codes * self.inverse.diagonal()[:, None])
        atoms = self.inverse @ factors.dictionary
        lengths = atoms.norm(dim=0).clamp_min(torch.finfo(atoms.dtype).tiny)
        return replace(factors, dictionary=atoms / lengths, codes=codes * lengths[:, None])


def shrunk(moment: Tensor, share: float) -> Tensor:
    """`(1 - s) C + s tr(C)/N I` scaled to the trace N, float64: what was seldom seen in calibration still counts.

    share: s in (0, 1]; at 1 the identity is left. The scale keeps the errors of groups comparable with their plain
    ones. Without any energy at all the identity comes back.
    """
    if not 0 < share <= 1:
        raise UserError(f"shrinkage is {share}, expected a share of the identity above 0 and at most 1")
    identity = torch.eye(len(moment), dtype=torch.float64)
    mean = moment.double().trace() / len(moment)
    return (1 - share) * moment.double() / mean + share * identity if mean > 0 else identity


def weighting(moment: Tensor, share: float, gains: Tensor | None = None, *, diagonal: bool = False) -> Weighting:
    """The weighting by a second moment C (N, N), shrunk by `share`, and optional gains (M,); float32.

    diagonal: by the diagonal of C alone, as pruning needs it (`|w_ij| |x_i|`: Sun et al. 2023, Wanda).
    """
    weights = shrunk(torch.diag(moment.diagonal()) if diagonal else moment, share)
    values, vectors = torch.linalg.eigh(weights)
    values = values.clamp_min(share)  # as they are but for rounding
    root = (vectors * values.sqrt()) @ vectors.T
    inverse = (vectors / values.sqrt()) @ vectors.T
    if diagonal:  # eigenvectors of equal values need not be unit vectors to the last bit
        root, inverse = (torch.diag(matrix) for matrix in (weights.diagonal().sqrt(), weights.diagonal().rsqrt()))
    gains = torch.ones(1) if gains is None else gains
    return Weighting(root.float(), inverse.float(), gains.float())
