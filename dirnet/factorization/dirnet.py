"""DirNet's factorization of one group of matrices: Step 1, Step 2 and the refit, brought to a requested size."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dirnet.errors import UserError
from dirnet.factorization import annealing, blocks, coordinate_descent, dictionary, shrinkage
from dirnet.factorization.factors import Factors, check_matrix, check_params, check_range, relative_error

PRESETS = ("best", "paper")
SHARES = (0.3, 0.4, 0.5, 0.6)  # of the budget that `best` tries to spend on the dictionary
SEARCH_ROUNDS, ROUNDS = 10, 30


def solve(
    matrix: Tensor,
    *,
    params: int | None = None,
    atoms: int | None = None,
    nonzeros: int | None = None,
    block: int = 1,
    preset: str = "best",
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> tuple[Factors, dict]:
    """Sparse factors `W ~ D Z` of `matrix` (N, M), float32 or float64 on the CPU, and a report of plain numbers.

    The size is either `params`, the budget `N * p + nnz(Z)`, with p found (or given as `atoms`), or `atoms` and
    `nonzeros`. block: codes are kept in blocks of so many consecutive columns of a row of Z.
    preset: "best" (SVD start, annealed hard thresholding, p searched) or "paper" (Steps 1 and 2 as published, then the
    refit; `atoms` bounds what Step 2 may keep). progress: called with the fraction done. Equal seeds give equal bits.
    Raises UserError for a matrix or a size that cannot be.
    """
    matrix = check_matrix(matrix, block)
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    if params is None:
        if atoms is None or nonzeros is None:
            raise UserError("the size is missing: give params, or atoms and nonzeros")
        check_range("atoms", atoms, 1, matrix.shape[1])
        check_range("nonzeros", nonzeros, block, atoms * matrix.shape[1], multiple=block)
        params = len(matrix) * atoms + nonzeros
    elif nonzeros is not None:
        raise UserError(f"nonzeros={nonzeros} and params={params} both set the size; give params alone, or with atoms")
    else:
        check_params(matrix, params, atoms, block)
    report = progress or (lambda fraction: None)
    find = _best if preset == "best" else _paper
    factors, details = find(matrix, params, atoms, nonzeros, block, seed, report)
    report(1.0)
    stored = blocks.count(factors.codes, block)
    return factors, {
        "preset": preset,
        "atoms": len(factors.codes),
        "nonzeros": stored,
        "density": stored / factors.codes.numel(),
        "params": factors.dictionary.numel() + stored,
        "block": block,
        "relative_error": relative_error(matrix, factors),
        **details,
    }


def _best(matrix, params, atoms, nonzeros, block, seed, report) -> tuple[Factors, dict]:
    """The yardstick of accuracy: short annealings find p, a long one follows."""
    left = torch.linalg.svd(matrix, full_matrices=False)[0]
    generator = torch.Generator().manual_seed(seed)
    candidates = [atoms] if atoms else _candidates(matrix, params, block)
    searching = len(candidates) > 1
    rounds = (len(candidates) * SEARCH_ROUNDS if searching else 0) + ROUNDS
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        report(done / (rounds + 1))

    def annealed(width: int, length: int) -> Factors:
        size = nonzeros or check_params(matrix, params, width, block)[1]
        start = left[:, :width]
        if width > start.shape[1]:
            more = dictionary.random_columns(matrix, width - start.shape[1], generator)
            start = torch.cat([start, more], dim=1)
        return annealing.anneal(matrix, start, size, rounds=length, block=block, tick=tick)

    search = []
    if searching:
        search = [(width, relative_error(matrix, annealed(width, SEARCH_ROUNDS))) for width in candidates]
        atoms = min(search, key=lambda tried: tried[1])[0]
    else:
        atoms = candidates[0]
    return annealed(atoms, ROUNDS), {"search": [{"atoms": p, "relative_error": error} for p, error in search]}


def _candidates(matrix: Tensor, params: int, block: int) -> list[int]:
    """Numbers of atoms to try: shares of the budget in D, and the fewest that can use it up (that is the SVD)."""
    rows, columns = matrix.shape
    fewest = max(1, -(-(params - block + 1) // (rows + columns)))
    most = max(fewest, min((params - block) // rows, rows, columns))
    return sorted({min(max(round(share * params / rows), fewest), most) for share in (0, *SHARES)})


def _paper(matrix, params, atoms, nonzeros, block, seed, report) -> tuple[Factors, dict]:
    """Steps 1 and 2 with the paper's constants, on unit-norm columns; lambda_1 and lambda_2 are meant for these."""
    columns, lengths = dictionary.unit(matrix)
    generator = torch.Generator().manual_seed(seed)
    start = dictionary.random_columns(columns, atoms or min(matrix.shape), generator)
    learned, codes = dictionary.learn(columns, start, block=block)
    report(0.4)

    def fits(point: shrinkage.Stage) -> bool:
        if nonzeros is not None:
            return point.nonzeros <= nonzeros
        return len(matrix) * len(point.kept) + point.nonzeros <= params

    points = list(shrinkage.path(columns, learned, codes, block=block))
    report(0.9)
    first = next(at for at, point in enumerate(points) if fits(point))
    chosen = points[first]
    if first:
        chosen = _between(columns, learned, points[first - 1], chosen, fits, block)
    kept = chosen.kept if len(chosen.kept) else points[max(first - 1, 0)].kept[:1]
    learned = learned[:, kept].contiguous()
    gram, correlations = learned.T @ learned, learned.T @ matrix
    size = nonzeros or check_params(matrix, params, len(kept), block)[1]
    support = _filled(gram, correlations, chosen.codes * lengths, size, block)
    codes = coordinate_descent.refit(gram, correlations, support)
    figures = {"path": [point.figures() for point in points], "chosen": chosen.figures()}
    return Factors(learned, codes), figures


def _between(columns, learned, dense, sparse, fits, block, steps: int = 8) -> shrinkage.Stage:
    """The largest stage that fits, between one that does not and the next that does: vartheta is bisected."""
    over, under, best = dense.vartheta, sparse.vartheta, sparse
    for _ in range(steps):
        middle = math.sqrt(over * under)
        point = shrinkage.stage(columns, learned, dense.codes, dense.kept, dense.penalty, middle, block=block)
        if fits(point):
            under, best = middle, point
        else:
            over = middle
    return best


def _filled(gram, correlations, codes, size, block) -> Tensor:
    """The support of `codes`, cut or filled up to `size`: a sweep without penalty says what to add."""
    support = blocks.largest(codes, min(size, blocks.count(codes, block)), block)
    fitted = codes.clone()
    coordinate_descent.sweep(gram, correlations, fitted)
    fitted[support] = 0
    return support | blocks.largest(fitted, size - int(support.sum()), block)
