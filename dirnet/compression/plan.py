"""The requested size of a model, divided over its groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dirnet.compression import allocation
from dirnet.compression.budget import Price, Size
from dirnet.compression.groups import MatrixGroup, dense_rnns, matrix_groups
from dirnet.compression.methods import Method
from dirnet.compression.parallel import Map
from dirnet.compression.report import size_figures
from dirnet.errors import UserError


@dataclass(frozen=True)
class Plan:
    """What each group of a model may cost, before anything is factorized. `unit` as in `Size`."""

    size: Size
    limit: int
    rest: int
    groups: list[MatrixGroup]
    prices: list[Price]
    budgets: list[int]


def make_plan(
    model: nn.Module, size: Size, method: Method, mapped: Map = map, tell: Callable[[str], None] = lambda name: None
) -> Plan:
    """Divide `size` over the groups of `model`; a size that cannot be met is a `UserError` with the feasible range.

    mapped: applies a function to all groups, as `map` does. tell: called with the name of a group that was looked at.
    """
    groups = [
        group for name, rnn in dense_rnns(model).items() for group in matrix_groups(rnn, f"{name}." if name else "")
    ]
    dense = size_figures(model)
    value_bytes = next(model.parameters()).element_size()
    prices = [Price(size.unit, *group.shape, method.block, value_bytes) for group in groups]
    for group in groups:
        if group.matrix.shape[1] % method.block:
            raise UserError(f"block {method.block} does not divide the {group.matrix.shape[1]} columns of {group.name}")
    wholes, least = [price.dense for price in prices], [method.least(price) for price in prices]
    least = [min(pair) for pair in zip(least, wholes, strict=True)]
    rest = dense[size.unit] - sum(wholes)
    limit = size.limit(dense["params"])
    if not rest + sum(least) <= limit <= dense[size.unit]:
        raise UserError(_infeasible(size, limit, rest + sum(least), dense))
    available = limit - rest
    if method.allocation == "equal":
        shares = allocation.equal(available, wholes, least)
    else:

        def errors(at: int, budgets: list[int]) -> list[float]:
            found = method.errors(groups[at].matrix, prices[at], budgets)
            tell(groups[at].name)
            return found

        shares = allocation.by_error(available, wholes, least, errors, mapped)
    steps = [method.step(price) for price in prices]
    budgets = allocation.rounded(shares, available, steps, wholes)
    return Plan(size, limit, rest, groups, prices, budgets)


def describe_plan(plan: Plan, dense: dict[str, int]) -> str:
    """What a budget would buy, for `--dry_run true`."""
    unit = plan.size.unit
    total = plan.rest + sum(plan.budgets)
    lines = [
        f"size {plan.size.text}: at most {plan.limit:,} of {dense[unit]:,} {unit}, "
        f"{plan.rest:,} of them uncompressed; planned {total:,} ({dense[unit] / total:.2f}x)"
    ]
    for group, price, budget in zip(plan.groups, plan.prices, plan.budgets, strict=True):
        shape, ratio = f"{price.rows}x{price.columns}", price.dense / budget
        lines.append(f"  {group.name:<20} {shape:>10} {price.dense:>12,} -> {budget:>10,} {unit} {ratio:7.2f}x")
    return "\n".join(lines)


def _infeasible(size: Size, limit: int, least: int, dense: dict[str, int]) -> str:
    unit, whole = size.unit, dense[size.unit]
    asked = f"size {size.text!r} means {limit:,} {unit}"
    feasible = f"choose from {least:,} to {whole:,} {unit}"
    if size.kind == "ratio":
        feasible += f" (1x to {int(100 * whole / least) / 100:g}x)"
    return f"{asked}, out of reach with this method and model; {feasible}"
