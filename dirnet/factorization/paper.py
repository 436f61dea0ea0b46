"""Algorithm 1 of the paper: Step 1 learns D and codes, Step 2 walks from these to the empty model, a stage is chosen.

Where the paper is silent or leads to a size that nobody asked for, this departs from it:

* p starts at half of the budget (the paper: as many atoms as D has rows), and Step 2 takes few of these away before
  the codes fit: the width is this rule's more than the shrinkage's. The report's `path` tells the atoms of each stage.
* Columns have unit norm while D and codes are learned; unused atoms are replaced by the column approximated worst.
* Step 1 extrapolates the atoms from round to round, so that ten rounds come further (the paper names no number).
* Atoms are not shifted unless `shifts` asks for it (the paper's Algorithm 1 names a Delta, but no set of shifts).
* Step 2 alternates codes and theta at most ten times a stage, two sweeps each (the paper: until convergence).
* Step 2 weighs one theta an atom, and penalises the codes of every matrix of the group (the paper: of W_x, while the
  codes of W_h stay those of Eq. 5).
* lambda_2 is the largest decade from 1e-3 to 1e3 whose first penalty is at most 0.01, which depends on p, gamma and
  Theta^0 only (the paper: "the best", by layer). vartheta halves from stage to stage (the paper names no factor), or
  falls faster where gamma is so small that halving would not raise the penalty.
* The first stage that fits the size is chosen, vartheta bisected between it and the one before. What it leaves of the
  size is filled up with the codes that help most (`Schedule.fill`), and all codes are refitted without a penalty.
* `dirnet.compress` then scales atoms and codes alike, for the fine-tuning, whatever the solver (`Factors.balanced`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.factorization import blocks, coordinate_descent, dictionary, room, shrinkage
from dirnet.factorization.factors import Factors
from dirnet.factorization.problem import Problem, Progress

BISECTIONS = 8


def paper(problem: Problem, schedule: shrinkage.Schedule, progress: Progress) -> tuple[Factors, dict]:
    """Factors of the problem, the figures of all stages and of the chosen one."""
    columns, lengths = dictionary.unit(problem.matrix)  # lambda_1 and lambda_2 are meant for these
    generator = torch.Generator().manual_seed(problem.seed)
    fewest = room.fewest(problem.columns, problem.room, problem.block)
    widest = room.widest(problem.columns, problem.room, problem.block)
    atoms = problem.atoms or max(min(widest // 2, *problem.matrix.shape), fewest)
    start = dictionary.random_columns(columns[:, : problem.learned_on], atoms, generator)
    progress(0.0, "Step 1")
    block, shifts = problem.block, problem.shifts
    learned, codes = dictionary.learn(columns, start, block=block, shifts=shifts, learned_on=problem.learned_on)
    points = []
    for point in shrinkage.path(columns, learned, codes, schedule, block=block, shifts=shifts):
        points.append(point)
        progress(0.9 - 0.5 * 0.9 ** len(points), "Step 2")  # no one knows the number of stages before the last
    chosen = _chosen(problem, columns, learned, points, schedule.gamma)
    details = {"path": [point.figures() for point in points], "chosen": chosen.figures()}
    lengths = lengths.repeat(len(shifts))
    if schedule.fill:
        kept, codes = _at_least(fewest, chosen, codes)
        learned = learned[:, kept].contiguous()
        codes = _filled(problem, learned, codes * lengths)
    else:
        kept, codes = chosen.kept, chosen.codes * lengths
        if not len(kept):  # nothing survived: one atom, no code
            kept, codes = torch.zeros(1, dtype=torch.int64), codes.new_zeros(1, len(lengths))
        learned = learned[:, kept].contiguous()
    return Factors.of(learned, codes, shifts), details


def _chosen(
    problem: Problem, columns: Tensor, learned: Tensor, points: list[shrinkage.Stage], gamma: float
) -> shrinkage.Stage:
    """The largest stage that fits: vartheta is bisected between the first of `points` that does and the one before."""

    def fits(point: shrinkage.Stage) -> bool:
        return point.nonzeros <= problem.room(len(point.kept))

    first = next(at for at, point in enumerate(points) if fits(point))
    largest = points[first]
    if not first:
        return largest
    dense = points[first - 1]
    over, under = dense.log_vartheta, largest.log_vartheta
    for _ in range(BISECTIONS):
        middle = (over + under) / 2
        point = shrinkage.stage(
            columns, learned, dense.codes, dense.kept, dense.penalty, middle, gamma=gamma, block=problem.block,
            shifts=problem.shifts,
        )  # fmt: skip
        if fits(point):
            under, largest = middle, point
        else:
            over = middle
    return largest


def _at_least(fewest: int, point: shrinkage.Stage, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The atoms and codes of a stage; if too few to use the size up, with the atoms that Step 1's `codes` use most."""
    usage = codes.abs().sum(1)
    usage[point.kept] = float("inf")
    kept = usage.argsort(descending=True, stable=True)[: max(fewest, len(point.kept))].sort().values
    spread = torch.zeros_like(codes)
    spread[point.kept] = point.codes
    return kept, spread[kept]


def _filled(problem: Problem, learned: Tensor, codes: Tensor) -> Tensor:
    """`codes` cut, or filled up, to the size beside their atoms; a least-squares sweep says what to add."""
    matrix, block, shifts, size = problem.matrix, problem.block, problem.shifts, problem.size(learned.shape[1])
    kept = blocks.largest(shifts.strengths(learned, codes), min(size, blocks.count(codes, block)), block)
    fitted, expanded = codes.clone(), shifts.expand(learned)
    coordinate_descent.sweep(
        expanded.T @ expanded, expanded.T @ matrix, shifts.tall(fitted), block=block, shifts=len(shifts)
    )
    free = shifts.strengths(learned, fitted) * ~shifts.occupied(kept)
    added = blocks.largest(free, size - int(kept.sum()), block)
    return codes * kept + fitted * added
