"""What a method's solver makes of one group of matrices at a budget, and what to expect of it beforehand."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dirnet.compression.budget import Price
from dirnet.compression.methods import Method
from dirnet.factorization import Factors, annealing, blocks, odl, pruning, relative_error, room, svd
from dirnet.factorization.problem import Progress
from dirnet.factorization.solve import solve
from dirnet.nn.running import executed_block

CLOSE = 0.98  # of a budget counts as having used it
SAMPLE_ROUNDS = 6  # of annealing tell groups apart; the full solver takes five to ten times as many


@dataclass(frozen=True)
class Task:
    """One group: the matrix (N, M), and what its factors may cost. w_h_columns: of `MatrixGroup`."""

    matrix: Tensor
    price: Price
    budget: int
    seed: int = 0
    w_h_columns: int | None = None
    progress: Progress = lambda fraction, stage: None  # called by the solvers that take long


def factorize(method: Method, task: Task) -> tuple[Factors, dict[str, Any]]:
    """Factors that cost at most the budget, and what the solver has to tell."""
    if task.budget >= task.price.dense:
        return Factors(None, task.matrix, dense=True), {"kept": "dense"}
    return _SOLVERS[method.solver](method, task)


def factorize_roughly(method: Method, task: Task) -> Factors:
    """Factors at the budget from a short run, whose error is near that of `errors`."""
    if task.budget >= task.price.dense or method.solver == "prune" or runs_dense(method, task.price):
        return factorize(method, task)[0]
    return _annealed_shortly(method, task.matrix, task.price, task.budget, svd.principal(task.matrix))


def errors(method: Method, matrix: Tensor, price: Price, budgets: list[int]) -> list[float]:
    """Squared Frobenius error to expect at each of `budgets`: exact for svd and prune, a short run otherwise."""
    spectrum = None if method.solver == "prune" else svd.principal(matrix)
    return [_error(method, matrix, price, budget, spectrum) for budget in budgets]


def runs_dense(method: Method, price: Price) -> bool:
    """Whether Z is better dense: in time, codes that run one by one, whose mask takes as long whatever it keeps."""
    return method.solver == "svd" or (price.cost_model is not None and executed_block(method.block) == 1)


def least(method: Method, price: Price) -> int:
    """The smallest budget a group can have: rank one, for pruning one block, for dense all of it."""
    if method.solver == "dense":
        return price.dense
    if method.solver == "prune":
        return price.factors(None, method.block)
    sparse, dense = price.factors(1, price.columns), price.factors(1, None)
    return dense if runs_dense(method, price) else min(sparse, dense) if method.solver == "dirnet" else sparse


def step(method: Method, price: Price) -> int:
    """By how much a budget must grow to buy anything."""
    return price.factors(1, None) if runs_dense(method, price) else 1


def split(method: Method, price: Price, budget: int) -> tuple[int | None, int]:
    """A good guess of the atoms, None without a dictionary, and codes that `budget` buys."""
    atoms = None if method.solver == "prune" else _half(price, min(budget, price.dense))
    return atoms, max(price.nonzeros(atoms, budget), method.block)


def expected(method: Method, price: Price, budget: int) -> str:
    """Atoms, density and bytes that `budget` buys, before the solver looks for better: atoms take half of it."""
    as_bytes = dataclasses.replace(price, unit="bytes", cost_model=None)
    if budget >= price.dense:
        return f"kept dense, {as_bytes.dense:,} bytes"
    if runs_dense(method, price):
        atoms, nonzeros = price.rank(budget), None
    else:
        atoms = None if method.solver == "prune" else _half(price, budget)
        nonzeros = price.nonzeros(atoms, budget)
    places = (price.rows if atoms is None else atoms) * price.columns
    share = 1.0 if nonzeros is None else nonzeros / places
    size = f"density {share:.3f}, {as_bytes.factors(atoms, nonzeros):,} bytes"
    return size if atoms is None else f"about {atoms} atoms, {size}"


def _dirnet(method: Method, task: Task) -> tuple[Factors, dict[str, Any]]:
    matrix, price, budget = task.matrix, task.price, task.budget
    settings = {"block": method.block, "preset": method.preset, "shifts": method.delta, "seed": task.seed,
                "schedule": method.schedule if method.preset == "paper" else None,
                "learned_on": None if method.joint else task.w_h_columns, "progress": task.progress}  # fmt: skip
    if price.unit == "params":
        return solve(matrix, params=budget, **settings)
    # Dense codes have no indices, and take a phone a fraction of the time: at some budgets the SVD is the best of all.
    rank, fitting = price.rank(budget), functools.partial(price.room, budget=budget)
    if runs_dense(method, price) or not room.widest(price.columns, fitting, price.block):
        return svd.truncated(matrix, rank), {"kept": "dense codes"}
    factors, report = solve(matrix, nonzeros=fitting, **settings)
    if rank and price.factors(rank, None) >= CLOSE * budget and not method.shifts:  # one set of shifts for a layer
        whole = svd.truncated(matrix, rank)
        if relative_error(matrix, whole) < report["relative_error"]:
            return whole, {"kept": "dense codes"}
    return factors, report


def _svd(method: Method, task: Task) -> tuple[Factors, dict[str, Any]]:
    return svd.truncated(task.matrix, task.price.rank(task.budget)), {}


def _odl(method: Method, task: Task) -> tuple[Factors, dict[str, Any]]:
    atoms = _half(task.price, task.budget)
    params = min(task.price.rows * atoms + task.price.nonzeros(atoms, task.budget), task.matrix.numel())
    return odl.online_dictionary_learning(
        task.matrix, params=params, atoms=atoms, block=method.block, seed=task.seed
    ), {}  # fmt: skip


def _prune(method: Method, task: Task) -> tuple[Factors, dict[str, Any]]:
    return pruning.magnitude(task.matrix, task.price.nonzeros(None, task.budget), block=method.block), {}


_SOLVERS = {"dirnet": _dirnet, "svd": _svd, "odl": _odl, "prune": _prune}


def _error(method: Method, matrix: Tensor, price: Price, budget: int, spectrum: tuple[Tensor, Tensor] | None) -> float:
    if budget >= price.dense:
        return 0.0
    if runs_dense(method, price):
        return _tail(spectrum, price, budget)
    if method.solver == "prune":
        kept = blocks.largest(matrix, price.nonzeros(None, budget), method.block)
        return float(matrix.masked_fill(kept, 0.0).square().sum())
    found = _annealed_shortly(method, matrix, price, budget, spectrum)
    error = float((matrix - found.reconstruct()).square().sum())
    return error if price.unit == "params" or method.solver == "odl" else min(error, _tail(spectrum, price, budget))


def _tail(spectrum: tuple[Tensor, Tensor], price: Price, budget: int) -> float:
    """The squared error of the SVD at `budget`."""
    return float(spectrum[1][price.rank(budget) :].sum())


def _annealed_shortly(
    method: Method, matrix: Tensor, price: Price, budget: int, spectrum: tuple[Tensor, Tensor]
) -> Factors:
    start = spectrum[0][:, : _half(price, budget)]
    size = price.nonzeros(start.shape[1], budget)
    return annealing.anneal(matrix, start, size, rounds=SAMPLE_ROUNDS, block=method.block, shifts=method.delta)


def _half(price: Price, budget: int) -> int:
    """Atoms that take half the budget, within what the codes need and can use."""
    fitting = functools.partial(price.room, budget=budget)
    fewest = room.fewest(price.columns, fitting, price.block)
    most = room.widest(price.columns, fitting, price.block)
    empty = price.factors(1, 0) - price.atom  # the counts of a Z without codes
    half = (budget - empty) // 2 // price.atom
    return max(min(max(half, fewest), price.rows, most), 1)
