"""DirNet's factorization of one group of matrices: Step 1, Step 2 and the refit, brought to a requested size."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dirnet.errors import UserError
from dirnet.factorization import annealing, blocks, coordinate_descent, dictionary, room, shrinkage, svd
from dirnet.factorization.factors import Factors, check_matrix, check_params, check_range, relative_error
from dirnet.factorization.room import Room
from dirnet.factorization.shift import IDENTITY, Shifts
from dirnet.factorization.threads import one_thread

PRESETS = ("best", "paper")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # of the budget that `best` tries to spend on the dictionary
SEARCH_ROUNDS, ROUNDS = 8, 40


@one_thread()
def solve(
    matrix: Tensor,
    *,
    params: int | None = None,
    atoms: int | None = None,
    nonzeros: int | Room | None = None,
    block: int = 1,
    preset: str = "best",
    shifts: Shifts = IDENTITY,
    learned_on: int | None = None,
    seed: int = 0,
    schedule: shrinkage.Schedule | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[Factors, dict]:
    """Sparse factors `W ~ D Z` of `matrix` (N, M), float32 or float64 on the CPU, and a report of plain numbers.

    The size is either `params`, the budget `N * p + nnz(Z)`, with p found (or given as `atoms`), or `atoms` and
    `nonzeros`, or `nonzeros` as a function of p, which is found (see `room`).
    block: codes are kept in blocks of so many consecutive columns of a row of Z.
    preset: "best" (SVD start, annealed hard thresholding, p searched) or "paper" (Steps 1 and 2 as published; they
    start from `atoms`, or half the budget in D, and Step 2 drops what it can). Both end with a refit of the codes.
    schedule: of Step 2, for preset "paper"; None is the published one.
    learned_on: D is learned on so many columns, the first: those of W_h in Eq. 5, whose D the codes of W_x then use
    (Eq. 7); None: on all.
    shifts: Delta of Eq. 9; the factors then say which of its operators every code (every block) uses.
    progress: called with the fraction done, up to 1.0, and the name of the stage.
    Equal seeds give equal bits. Runs on one thread. Raises UserError for a matrix or a size that cannot be.
    """
    matrix = check_matrix(matrix, block)
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    shifts.check(len(matrix))
    if learned_on is not None:
        check_range("learned_on", learned_on, 1, matrix.shape[1])
    if callable(nonzeros):
        if not (params is None and atoms is None and room.widest(matrix.shape[1], nonzeros, block)):
            raise UserError(
                f"nonzeros as a function excludes params={params} and atoms={atoms}, and must admit one atom"
            )
        fitting = nonzeros
    elif params is None:
        if atoms is None or nonzeros is None:
            raise UserError("the size is missing: give params, or atoms and nonzeros")
        check_range("atoms", atoms, 1, matrix.shape[1])
        check_range("nonzeros", nonzeros, block, atoms * matrix.shape[1], multiple=block)
        fitting = room.fixed(nonzeros)
    elif nonzeros is not None:
        raise UserError(f"nonzeros={nonzeros} and params={params} both set the size; give params alone, or with atoms")
    else:
        check_params(matrix, params, atoms, block)
        fitting = room.of_params(len(matrix), params, block)
    if schedule and preset != "paper":
        raise UserError(f"a schedule of Step 2 is given with preset={preset!r}; it belongs to preset paper")
    report = progress or (lambda fraction, stage: None)
    if preset == "best":
        factors, details = _best(matrix, learned_on, atoms, fitting, block, shifts, seed, report)
    else:
        schedule = schedule or shrinkage.Schedule()
        factors, details = _paper(matrix, learned_on, atoms, fitting, block, shifts, seed, schedule, report)
    factors = _refitted(matrix, factors, block)
    stored = blocks.count(factors.codes, block)
    if progress:
        progress(1.0, "refit")
    return factors, {
        "preset": preset,
        "atoms": len(factors.codes),
        "nonzeros": stored,
        "density": stored / factors.codes.numel(),
        "params": factors.dictionary.numel() + stored,
        "block": block,
        **({"shifted": _shifted(factors)} if shifts.reach else {}),
        "relative_error": relative_error(matrix, factors),
        **details,
    }


def _refitted(matrix: Tensor, factors: Factors, block: int) -> Factors:
    """The codes fitted anew, exactly, on their support: this removes what l1 or a few sweeps left."""
    atoms, shifts = factors.dictionary, factors.shifts
    expanded, codes = shifts.expand(atoms), factors.wide
    support = shifts.tall(blocks.support(codes, block))
    fitted = coordinate_descent.refit(expanded.T @ expanded, expanded.T @ matrix, support)
    return Factors.of(atoms, fitted.view_as(codes), shifts)


def _shifted(factors: Factors) -> float:
    """The share of the codes whose atom is moved."""
    return int(factors.offsets.count_nonzero()) / max(int(factors.codes.count_nonzero()), 1)


def _best(matrix, learned_on, atoms, fitting, block, shifts, seed, report) -> tuple[Factors, dict]:
    """The most accurate factors: short annealings find p, a long one follows."""
    seen = matrix[:, :learned_on]
    left = svd.principal(seen)[0]
    generator = torch.Generator().manual_seed(seed)
    candidates = [atoms] if atoms else _candidates(matrix, fitting, block)
    total, done = len(candidates) * (SEARCH_ROUNDS + 1) + ROUNDS + 1, 0

    def tick() -> None:
        nonlocal done
        done += 1
        report(done / (total + 1), "anneal" if done > total - ROUNDS - 1 else "search p")

    def annealed(width: int, rounds: int) -> Factors:
        size = min(fitting(width), width * matrix.shape[1])
        share = size * seen.shape[1] // matrix.shape[1]
        start = annealing.turn(seen, left[:, :width], share // 2, rounds=rounds // 2, block=block)
        if width > start.shape[1]:
            start = torch.cat([start, dictionary.random_columns(seen, width - start.shape[1], generator)], dim=1)
        return annealing.anneal(
            matrix, start, size, rounds=rounds, block=block, shifts=shifts, learned_on=learned_on, tick=tick
        )

    tried: dict[int, float] = {}
    if len(candidates) > 1:
        tried = _downhill(candidates, lambda width: relative_error(matrix, annealed(width, SEARCH_ROUNDS)))
    chosen = min(tried, key=tried.get) if tried else candidates[0]
    done = total - ROUNDS - 1
    factors = annealed(chosen, ROUNDS)
    return factors, {"search": [{"atoms": width, "relative_error": tried[width]} for width in sorted(tried)]}


def _candidates(matrix: Tensor, fitting: Room, block: int) -> list[int]:
    """Numbers of atoms to try: shares of the budget in D, and the fewest that can use it up (nearly the SVD)."""
    fewest, whole = room.fewest(matrix.shape[1], fitting, block), room.widest(matrix.shape[1], fitting, block)
    most = max(fewest, min(whole, *matrix.shape))
    return sorted({min(max(round(share * whole), fewest), most) for share in (0, *SHARES)})


def _downhill(candidates: list[int], error: Callable[[int], float]) -> dict[int, float]:
    """The errors met on the walk from the middle of `candidates` to a minimum, and that of the first candidate."""
    tried: dict[int, float] = {}

    def cost(width: int) -> float:
        if width not in tried:
            found = error(width)
            tried[width] = found if found == found else math.inf  # NaN would end no walk
        return tried[width]

    cost(candidates[0])
    at = len(candidates) // 2
    while True:
        lowest = candidates.index(min(candidates[max(at - 1, 0) : at + 2], key=cost))
        if lowest == at:
            return tried
        at = lowest


def _paper(matrix, learned_on, atoms, fitting, block, shifts, seed, schedule, report) -> tuple[Factors, dict]:
    """Steps 1 and 2 with the paper's constants, on unit-norm columns; lambda_1 and lambda_2 are meant for these."""
    columns, lengths = dictionary.unit(matrix)
    generator = torch.Generator().manual_seed(seed)
    fewest = room.fewest(matrix.shape[1], fitting, block)
    width = atoms or max(min(room.widest(matrix.shape[1], fitting, block) // 2, *matrix.shape), fewest)
    start = dictionary.random_columns(columns[:, :learned_on], width, generator)
    report(0.0, "Step 1")
    learned, codes = dictionary.learn(columns, start, block=block, shifts=shifts, learned_on=learned_on)

    def fits(point: shrinkage.Stage) -> bool:
        return point.nonzeros <= fitting(len(point.kept))

    points = []
    gamma, options = schedule.gamma, {"penalty": schedule.penalty, "vartheta": schedule.vartheta}
    for point in shrinkage.path(columns, learned, codes, gamma=gamma, block=block, shifts=shifts, **options):
        points.append(point)
        report(0.9 - 0.5 * 0.9 ** len(points), "Step 2")  # the number of stages is not known before the model is empty
    first = next(at for at, point in enumerate(points) if fits(point))
    chosen = points[first]
    if first:
        chosen = _between(columns, learned, points[first - 1], chosen, fits, gamma, block, shifts)
    details = {"path": [point.figures() for point in points], "chosen": chosen.figures()}
    if not schedule.fill:
        kept, codes = chosen.kept, chosen.codes
        if not len(kept):  # nothing survived: one atom, no code
            kept, codes = torch.zeros(1, dtype=torch.int64), codes.new_zeros(1, lengths.numel() * len(shifts))
        return Factors.of(learned[:, kept].contiguous(), codes * lengths.repeat(len(shifts)), shifts), details
    kept, codes = _at_least(fewest, chosen, codes)
    learned = learned[:, kept].contiguous()
    size = min(fitting(len(kept)), len(kept) * matrix.shape[1])
    codes = _filled(matrix, learned, codes * lengths.repeat(len(shifts)), size, block, shifts)
    return Factors.of(learned, codes, shifts), details


def _between(columns, learned, dense, sparse, fits, gamma, block, shifts, steps: int = 8) -> shrinkage.Stage:
    """The largest stage that fits, between one that does not and the next that does: vartheta is bisected."""
    over, under, best = dense.vartheta, sparse.vartheta, sparse
    for _ in range(steps):
        middle = math.sqrt(over * under)
        point = shrinkage.stage(
            columns, learned, dense.codes, dense.kept, dense.penalty, middle, gamma=gamma, block=block, shifts=shifts
        )
        if fits(point):
            under, best = middle, point
        else:
            over = middle
    return best


def _at_least(fewest: int, point: shrinkage.Stage, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The atoms and codes of a stage; if too few to use the size up, with the atoms that Step 1's `codes` use most."""
    usage = codes.abs().sum(1)
    usage[point.kept] = float("inf")
    kept = usage.argsort(descending=True, stable=True)[: max(fewest, len(point.kept))].sort().values
    spread = torch.zeros_like(codes)
    spread[point.kept] = point.codes
    return kept, spread[kept]


def _filled(matrix, atoms, codes, size, block, shifts) -> Tensor:
    """`codes` cut, or filled up, to `size` scalars; a least-squares sweep says what to add."""
    kept = blocks.largest(shifts.strengths(atoms, codes), min(size, blocks.count(codes, block)), block)
    fitted, expanded = codes.clone(), shifts.expand(atoms)
    none = codes.new_zeros(len(codes)) if shifts.reach else None
    coordinate_descent.sweep(expanded.T @ expanded, expanded.T @ matrix, shifts.tall(fitted), none, block)
    free = shifts.strengths(atoms, fitted) * ~shifts.occupied(kept)
    added = blocks.largest(free, size - int(kept.sum()), block)
    return codes * kept + fitted * added
