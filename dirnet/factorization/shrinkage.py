"""Step 2: adaptively hierarchical sparsity (Sec. 3.4, Eqs. 11-17), the path from the dense to the empty model.

With D fixed, a stage alternates two exact half-steps of Eq. 13: a lasso in which atom i pays `lambda_2 theta_i^-gamma`
per unit of |z_i| (Eq. 14), and the closed-form theta with `sum theta_i = vartheta` (Eq. 17). Atoms that are used little
get a small theta, so they pay more and vanish: that is how the number of atoms is found. `vartheta` shrinks from stage
to stage; only `lambda_2 vartheta^-gamma` matters, so lambda_2 says where on the path the first stage lies.
vartheta is kept as its logarithm, theta as shares of it: for a small gamma it is below every floating-point number long
before the penalty has grown.
The fit is counted as 1/2 |W - D Z|^2, as in Step 1; the paper's Eq. 14 has no 1/2, which only halves its lambda_2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dirnet.factorization import blocks, coordinate_descent
from dirnet.factorization.factors import relative_norm
from dirnet.factorization.shift import IDENTITY, Shifts

GAMMA = 0.4
VARTHETA = 1e7
SHRINK = 0.5  # vartheta of a stage over that of the one before; less where the penalty would not grow by GROWTH
GROWTH = 1.05
ALTERNATIONS = 10


@dataclass(frozen=True)
class Schedule:
    """Where the path starts and how it weighs atoms: Theta^0 and gamma of Sec. 4.3, lambda_2 (None: `first_penalty`).

    fill: whether a stage that uses less than the budget is filled up with the codes that help most; the paper does not.
    """

    vartheta: float = VARTHETA
    gamma: float = GAMMA
    penalty: float | None = None
    fill: bool = True


@dataclass(frozen=True)
class Stage:
    """A point of the path. `kept` (p,) indexes the atoms left of the dictionary, `codes` (p, M) belong to these."""

    log_vartheta: float  # natural
    penalty: float  # lambda_2
    kept: Tensor
    codes: Tensor
    nonzeros: int
    relative_error: float

    def figures(self) -> dict:
        """The numbers of this point, for a report."""
        return {
            "log10_vartheta": self.log_vartheta / math.log(10),
            "lambda_2": self.penalty,
            "atoms": len(self.kept),
            "nonzeros": self.nonzeros,
            "relative_error": self.relative_error,
        }


def atom_weights(usage: Tensor, vartheta: float, gamma: float = GAMMA) -> Tensor:
    """Eq. 17: the theta (p,) >= 0 with sum `vartheta` that minimises `sum_i usage_i theta_i^-gamma` (Eq. 15).

    usage: c_i = sum_j |z_ij|, (p,). An unused atom gets zero.
    """
    roots = usage ** (1 / (1 + gamma))
    return vartheta * roots / roots.sum()


def stage(
    matrix: Tensor,
    dictionary: Tensor,
    codes: Tensor,
    kept: Tensor,
    penalty: float,
    log_vartheta: float,
    *,
    shares: Tensor | None = None,
    gamma: float = GAMMA,
    block: int = 1,
    shifts: Shifts = IDENTITY,
    alternations: int = ALTERNATIONS,
    tolerance: float = 1e-2,
) -> Stage:
    """One stage, warm-started at `codes` (p, M) of the atoms `kept`.

    It is over once no theta moves by `tolerance` of the mean theta, or after so many `alternations`.
    shares: theta / vartheta of the first alternation, (p,) float64; None takes those that the codes ask for. With
    `shifts` the codes are wide, and every lasso may choose other shifts.
    """
    gram = correlations = None
    for _ in range(alternations):
        if shares is None:
            shares = _shares(_usage(codes, block), gamma)
        penalties = (penalty * math.exp(-gamma * log_vartheta) * shares**-gamma).to(matrix.dtype)
        if gram is None:
            atoms = shifts.expand(dictionary[:, kept])
            gram, correlations = atoms.T @ atoms, atoms.T @ matrix
        codes = coordinate_descent.lasso(gram, correlations, penalties, codes, sweeps=2, block=block)
        usage = _usage(codes, block)
        alive = usage > 0
        kept, codes, before = kept[alive], codes[alive], shares[alive]
        if len(before) < len(shares):
            gram = None
        if not len(kept):
            break
        shares = _shares(usage[alive], gamma)
        if float((shares - before).abs().max()) <= tolerance / len(shares):
            break
    error = relative_norm(matrix - shifts.reconstruct(dictionary[:, kept], codes), matrix)
    return Stage(log_vartheta, penalty, kept, codes, blocks.count(codes, block), error)


def path(
    matrix: Tensor,
    dictionary: Tensor,
    codes: Tensor,
    schedule: Schedule | None = None,
    *,
    block: int = 1,
    shifts: Shifts = IDENTITY,
) -> Iterator[Stage]:
    """The stages from the `vartheta` of `schedule` on, until the model is empty; the last stage has no atoms.

    matrix: (N, M); dictionary: (N, p), fixed; codes: (p, M), where the first lasso starts. Its theta is uniform, so
    that all atoms compete.
    """
    schedule = schedule or Schedule()
    gamma, atoms, penalty = schedule.gamma, dictionary.shape[1], schedule.penalty
    penalty = first_penalty(atoms, schedule.vartheta, gamma) if penalty is None else penalty
    log_vartheta, step = math.log(schedule.vartheta), max(-math.log(SHRINK), math.log(GROWTH) / gamma)
    kept, shares = torch.arange(atoms), torch.full((atoms,), 1 / atoms, dtype=torch.float64)
    while len(kept):
        point = stage(
            matrix, dictionary, codes, kept, penalty, log_vartheta, shares=shares, gamma=gamma, block=block,
            shifts=shifts,
        )  # fmt: skip
        yield point
        kept, codes, shares, log_vartheta = point.kept, point.codes, None, log_vartheta - step


def first_penalty(atoms: int, vartheta: float = VARTHETA, gamma: float = GAMMA, threshold: float = 0.01) -> float:
    """The largest lambda_2 of 1e-3, 1e-2 ... 1e3 with which a uniform theta shrinks codes by at most `threshold`."""
    least = math.log10(threshold) + gamma * math.log10(vartheta / atoms)  # by logarithms: a power may be infinite
    fitting = [power for power in range(-3, 4) if power <= least]
    return 10.0 ** (fitting[-1] if fitting else -3)


def _shares(usage: Tensor, gamma: float) -> Tensor:
    """theta / vartheta, in float64."""
    return atom_weights(usage.double(), 1.0, gamma)


def _usage(codes: Tensor, block: int) -> Tensor:
    return blocks.norms(codes, block).sum(1) * block**0.5
