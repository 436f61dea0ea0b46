"""The most accurate factors of a size: p is searched by short annealings, a long one follows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dirnet.factorization import annealing, dictionary, room, svd
from dirnet.factorization.factors import Factors, relative_error
from dirnet.factorization.problem import Problem, Progress

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # of the widest dictionary that fits: the p that are tried
SEARCH_ROUNDS, ROUNDS = 8, 40  # of a short annealing, and of the long one


def best(problem: Problem, progress: Progress) -> tuple[Factors, dict]:
    """Factors of the problem, and the errors that the search met."""
    seen = problem.matrix[:, : problem.learned_on]
    basis, generator = svd.principal(seen)[0], torch.Generator().manual_seed(problem.seed)
    candidates = [problem.atoms] if problem.atoms else _candidates(problem)
    searched = len(candidates) * (SEARCH_ROUNDS + 1)  # rounds at most: the walk does not try every candidate
    steps = searched + ROUNDS + 2

    def annealed(atoms: int, rounds: int, tick: Callable[[], None]) -> Factors:
        start = _start(problem, seen, basis, atoms, rounds, generator)
        return annealing.anneal(
            problem.matrix, start, problem.size(atoms), rounds=rounds, block=problem.block, shifts=problem.shifts,
            learned_on=problem.learned_on, tick=tick,
        )  # fmt: skip

    tried: dict[int, float] = {}
    if len(candidates) > 1:
        tick = _counter(progress, "search p", 0, steps)
        tried = _downhill(
            candidates, lambda atoms: relative_error(problem.matrix, annealed(atoms, SEARCH_ROUNDS, tick))
        )
    chosen = min(tried, key=tried.get) if tried else candidates[0]
    factors = annealed(chosen, ROUNDS, _counter(progress, "anneal", searched, steps))
    return factors, {"search": [{"atoms": atoms, "relative_error": tried[atoms]} for atoms in sorted(tried)]}


def _start(
    problem: Problem, seen: Tensor, basis: Tensor, atoms: int, rounds: int, generator: torch.Generator
) -> Tensor:
    """Atoms (N, `atoms`): the leading ones of `basis`, turned until codes are sparse, and random columns beyond it."""
    half = problem.size(atoms) * seen.shape[1] // problem.columns // 2  # of the codes that these columns will have
    turned = annealing.turn(seen, basis[:, :atoms], half, rounds=rounds // 2, block=problem.block)
    if atoms == turned.shape[1]:
        return turned
    return torch.cat([turned, dictionary.random_columns(seen, atoms - turned.shape[1], generator)], dim=1)


def _counter(progress: Progress, stage: str, done: int, steps: int) -> Callable[[], None]:
    """A function that counts a step each time it is called, from `done` on, and tells the share of `steps`."""

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done / steps, stage)

    return tick


def _candidates(problem: Problem) -> list[int]:
    """Numbers of atoms to try: `SHARES`, and the fewest that can use the size up (nearly the SVD)."""
    fewest = room.fewest(problem.columns, problem.room, problem.block)
    widest = room.widest(problem.columns, problem.room, problem.block)
    most = max(fewest, min(widest, *problem.matrix.shape))
    return sorted({min(max(round(share * widest), fewest), most) for share in (0, *SHARES)})


def _downhill(candidates: list[int], error: Callable[[int], float]) -> dict[int, float]:
    """The errors met on the walk from the middle of `candidates` to a minimum, and that of the first candidate."""
    tried: dict[int, float] = {}

    def cost(atoms: int) -> float:
        if atoms not in tried:
            found = error(atoms)
            tried[atoms] = found if found == found else math.inf  # NaN would end no walk
        return tried[atoms]

    cost(candidates[0])
    at = len(candidates) // 2
    while True:
        lowest = candidates.index(min(candidates[max(at - 1, 0) : at + 2], key=cost))
        if lowest == at:
            return tried
        at = lowest
