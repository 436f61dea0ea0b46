"""DirNet's factorization of one group of matrices, brought to a requested size."""

from __future__ import annotations

from torch import Tensor

from dirnet.errors import UserError
from dirnet.factorization import blocks, coordinate_descent, room
from dirnet.factorization.best import best
from dirnet.factorization.factors import Factors, check_matrix, check_params, check_range, relative_error
from dirnet.factorization.paper import paper
from dirnet.factorization.problem import Problem, Progress
from dirnet.factorization.room import Room
from dirnet.factorization.shift import IDENTITY, Shifts
from dirnet.factorization.shrinkage import Schedule
from dirnet.factorization.threads import one_thread

PRESETS = ("best", "paper")


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
    schedule: Schedule | None = None,
    progress: Progress = lambda fraction, stage: None,
) -> tuple[Factors, dict]:
    """Sparse factors `W ~ D Z` of `matrix` (N, M), float32 or float64 on the CPU, and a report of plain numbers.

    The size is either `params`, the budget `N * p + nnz(Z)`, with p found (or given as `atoms`), or `atoms` and
    `nonzeros`, or `nonzeros` as a function of p, which is found (see `room`).
    block: codes are kept in blocks of so many consecutive columns of a row of Z.
    preset: "best" (SVD start, annealed hard thresholding, p searched) or "paper" (Algorithm 1; what departs from it
    stands in `dirnet.factorization.paper`). Both end with a refit of the codes.
    schedule: of Step 2, for preset "paper"; None is the published one.
    learned_on: D is learned on so many columns, the first: those of W_h in Eq. 5, whose D the codes of W_x then use
    (Eq. 7); None: on all.
    shifts: Delta of Eq. 9; the factors then say which of its operators every code (every block) uses.
    Equal seeds give equal bits. Runs on one thread. Raises UserError for a matrix or a size that cannot be.
    """
    matrix = check_matrix(matrix, block)
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    shifts.check(len(matrix))
    if learned_on is not None:
        check_range("learned_on", learned_on, 1, matrix.shape[1])
    if schedule and preset != "paper":
        raise UserError(f"a schedule of Step 2 is given with preset={preset!r}; it belongs to preset paper")
    problem = Problem(matrix, _room(matrix, params, atoms, nonzeros, block), atoms, block, shifts, learned_on, seed)
    factors, details = best(problem, progress) if preset == "best" else paper(problem, schedule or Schedule(), progress)
    factors = _refitted(matrix, factors, block)
    stored = blocks.count(factors.codes, block)
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


def _room(matrix: Tensor, params: int | None, atoms: int | None, nonzeros: int | Room | None, block: int) -> Room:
    """The size, in whichever of the three ways it is given."""
    if callable(nonzeros):
        if not (params is None and atoms is None and room.widest(matrix.shape[1], nonzeros, block)):
            raise UserError(
                f"nonzeros as a function excludes params={params} and atoms={atoms}, and must admit one atom"
            )
        return nonzeros
    if params is None:
        if atoms is None or nonzeros is None:
            raise UserError("the size is missing: give params, or atoms and nonzeros")
        check_range("atoms", atoms, 1, matrix.shape[1])
        check_range("nonzeros", nonzeros, block, atoms * matrix.shape[1], multiple=block)
        return room.fixed(nonzeros)
    if nonzeros is not None:
        raise UserError(f"nonzeros={nonzeros} and params={params} both set the size; give params alone, or with atoms")
    check_params(matrix, params, atoms, block)
    return room.of_params(len(matrix), params, block)


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
