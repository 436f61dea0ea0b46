"""The methods of `conf/compress.yaml`: each brings one group of matrices to a budget of parameters or bytes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dirnet.compression.budget import Price
from dirnet.config import from_mapping, read_yaml
from dirnet.errors import UserError
from dirnet.factorization import Factors, annealing, blocks, dirnet, odl, pruning, relative_error, room, svd

Progress = Callable[[float, str], None]

CLOSE = 0.98  # of a budget counts as having used it
SAMPLE_ROUNDS = 6  # of annealing tell groups apart; the full solver takes five to ten times as many


@dataclass(frozen=True)
class Method:
    """One method. solver: what factorizes. preset, block: see `dirnet.factorization.dirnet.solve`.

    allocation: `error` divides the budget over the groups to leave the least squared error, `equal` shrinks every
    group by the same factor.
    """

    solver: Literal["dirnet", "svd", "odl", "prune"]
    preset: Literal["best", "paper"] = "best"
    block: int = 1
    allocation: Literal["error", "equal"] = "error"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UserError(f"block is {self.block}, expected 1 or more gate rows")
        if self.solver == "svd" and self.block != 1:
            raise UserError(f"block is {self.block}, expected 1: the codes of solver svd are dense")

    def least(self, price: Price) -> int:
        """The smallest budget a group can have: rank one, or for pruning one block."""
        if self.solver == "prune":
            return price.factors(None, self.block)
        sparse, dense = price.factors(1, price.columns), price.factors(1, None)
        return {"svd": dense, "dirnet": min(sparse, dense)}.get(self.solver, sparse)

    def step(self, price: Price) -> int:
        """By how much a budget must grow to buy anything."""
        return price.factors(1, None) if self.solver == "svd" else 1

    def factorize(
        self, matrix: Tensor, price: Price, budget: int, seed: int, progress: Progress | None = None
    ) -> tuple[Factors, dict[str, Any]]:
        """Factors of `matrix` (N, M) that cost at most `budget`, and what the solver has to tell.

        progress: called with the fraction done and the name of the stage, by the solvers that take long.
        """
        if budget >= price.dense:
            return Factors(None, matrix), {"kept": "dense"}
        return _SOLVERS[self.solver](self, matrix, price, budget, seed, progress)

    def errors(self, matrix: Tensor, price: Price, budgets: list[int]) -> list[float]:
        """Squared Frobenius error to expect at each of `budgets`: exact for svd and prune, a short run otherwise."""
        spectrum = None if self.solver == "prune" else svd.principal(matrix)
        return [_estimate(self, matrix, price, budget, spectrum) for budget in budgets]

    def expected(self, price: Price, budget: int) -> str:
        """Atoms, density and bytes that `budget` buys, before the solver looks for better: atoms take half of it."""
        as_bytes = dataclasses.replace(price, unit="bytes", running=None)
        if budget >= price.dense:
            return f"kept dense, {as_bytes.dense:,} bytes"
        if self.solver == "svd":
            atoms, nonzeros = price.rank(budget), None
        else:
            atoms = None if self.solver == "prune" else _half(price, budget)
            nonzeros = price.nonzeros(atoms, budget)
        places = (price.rows if atoms is None else atoms) * price.columns
        share = 1.0 if nonzeros is None else nonzeros / places
        size = f"density {share:.3f}, {as_bytes.factors(atoms, nonzeros):,} bytes"
        return size if atoms is None else f"about {atoms} atoms, {size}"


METHODS = {
    "dirnet": Method("dirnet"),
    "svd": Method("svd"),
    "odl": Method("odl", allocation="equal"),
    "prune": Method("prune"),
}


def load_methods(path: str | Path) -> dict[str, Method]:
    """The methods of a YAML file of `name: {solver: ..., ...}` lines."""
    methods = {}
    for name, mapping in read_yaml(path).items():
        if not isinstance(mapping, dict):
            raise UserError(f"{path}: {name} is {mapping!r}, expected {{solver: dirnet, ...}}")
        methods[str(name)] = from_mapping(Method, mapping, f"{path}: {name}")
    return methods


def _dirnet(method, matrix, price, budget, seed, progress) -> tuple[Factors, dict[str, Any]]:
    settings = {"block": method.block, "preset": method.preset, "seed": seed, "progress": progress}
    if price.unit == "params":
        return dirnet.solve(matrix, params=budget, **settings)
    # Dense codes have no indices, and take a phone a fraction of the time: at some budgets the SVD is the best of all.
    rank, fitting = price.rank(budget), functools.partial(price.room, budget=budget)
    if not room.widest(price.columns, fitting, price.block):
        return svd.truncated(matrix, rank), {"kept": "dense codes"}
    factors, report = dirnet.solve(matrix, nonzeros=fitting, **settings)
    if rank and price.factors(rank, None) >= CLOSE * budget:
        whole = svd.truncated(matrix, rank)
        if relative_error(matrix, whole) < report["relative_error"]:
            return whole, {"kept": "dense codes"}
    return factors, report


def _svd(method, matrix, price, budget, seed, progress) -> tuple[Factors, dict[str, Any]]:
    return svd.truncated(matrix, price.rank(budget)), {}


def _odl(method, matrix, price, budget, seed, progress) -> tuple[Factors, dict[str, Any]]:
    atoms = _half(price, budget)
    params = price.rows * atoms + price.nonzeros(atoms, budget)
    factors = odl.online_dictionary_learning(matrix, params=params, atoms=atoms, block=method.block, seed=seed)
    return factors, {}


def _prune(method, matrix, price, budget, seed, progress) -> tuple[Factors, dict[str, Any]]:
    return pruning.magnitude(matrix, price.nonzeros(None, budget), block=method.block), {}


_SOLVERS = {"dirnet": _dirnet, "svd": _svd, "odl": _odl, "prune": _prune}


def _estimate(method: Method, matrix: Tensor, price: Price, budget: int, spectrum: tuple | None) -> float:
    if budget >= price.dense:
        return 0.0
    if method.solver == "svd":
        return _tail(spectrum, price, budget)
    if method.solver == "prune":
        kept = blocks.largest(matrix, price.nonzeros(None, budget), method.block)
        return float(matrix.masked_fill(kept, 0.0).square().sum())
    atoms = _half(price, budget)
    start = spectrum[0][:, :atoms]
    size = price.nonzeros(start.shape[1], budget)
    factors = annealing.anneal(matrix, start, size, rounds=SAMPLE_ROUNDS, block=method.block)
    error = float((matrix - factors.reconstruct()).square().sum())
    return error if price.unit == "params" or method.solver == "odl" else min(error, _tail(spectrum, price, budget))


def _tail(spectrum: tuple[Tensor, Tensor], price: Price, budget: int) -> float:
    """The squared error of the SVD at `budget`."""
    return float(spectrum[1][price.rank(budget) :].sum())


def _half(price: Price, budget: int) -> int:
    """Atoms that take half the budget, within what the codes need and can use."""
    fitting = functools.partial(price.room, budget=budget)
    fewest = room.fewest(price.columns, fitting, price.block)
    most = room.widest(price.columns, fitting, price.block)
    half = (budget - price.factors(0, 0)) // 2 // price.atom  # of what is left beside the counts of an empty Z
    return max(min(max(half, fewest), price.rows, most), 1)
