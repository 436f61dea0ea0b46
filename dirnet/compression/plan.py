"""The requested size of a model, divided over its groups."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dirnet.compression import allocation, solvers
from dirnet.compression.budget import FS, Price, Size
from dirnet.compression.groups import MatrixGroup, dense_rnns, matrix_groups
from dirnet.compression.guide import Guide, output_errors
from dirnet.compression.methods import Method
from dirnet.compression.parallel import Map
from dirnet.compression.report import size_figures
from dirnet.errors import UserError
from dirnet.factorization import svd
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.quantised import SCALE_BYTES
from dirnet.nn.running import CostModel, frame_seconds, group_shapes, rest_counts


@dataclass(frozen=True)
class Plan:
    """What each group of a model may cost, before anything is factorized; in the unit of `size`.

    rest: what is not compressed costs. frame: seconds that an output frame lasts, where time counts.
    """

    size: Size
    method: Method
    frame: float
    limit: int
    rest: int
    groups: list[MatrixGroup]
    prices: list[Price]
    budgets: list[int]


def make_plan(
    model: nn.Module,
    size: Size,
    method: Method,
    guide: Guide | None = None,
    mapped: Map = map,
    tell: Callable[[str], None] = lambda name: None,
    cost_model: CostModel | None = None,
) -> Plan:
    """Divide `size` over the groups of `model`; a size that cannot be met is a `UserError` with the feasible range.

    guide: what calibration says of the model, for a method that asks for it. mapped: applies a function to all groups,
    as `map` does. tell: called with the name of a group that was looked at. cost_model: of the device, which a size in
    rtf needs.
    """
    rnns = dense_rnns(model)
    method.check_size(size, rnns.values())
    guide = guide or Guide()
    groups, value_bytes = [], []  # and the bytes of a dense value of each
    for name, rnn in rnns.items():
        groups += matrix_groups(rnn, f"{name}." if name else "", method.grouping(rnn))
        value_bytes += [rnn.weight_ih_l0.element_size()] * (len(groups) - len(value_bytes))
    for group in groups:
        if (columns := group.shape[1]) % method.block:
            raise UserError(f"block {method.block} does not divide the {columns} columns of {group.name}; "
                            f"give {math.gcd(method.block, columns)} or another divisor")  # fmt: skip
        method.delta.check(len(group.matrix))
    prices = _prices(model, size, method, groups, value_bytes, cost_model)
    wholes, least = [price.dense for price in prices], [solvers.least(method, price) for price in prices]
    least = [
        whole if method.input_group == "dense" and group.reads_input else min(floor, whole)
        for group, floor, whole in zip(groups, least, wholes, strict=True)
    ]
    dense = size_figures(model)
    if size.unit == "fs":
        rest, frame = math.ceil(FS * cost_model.seconds(rest_counts(model.config))), frame_seconds(model.config)
        whole, limit = rest + sum(wholes), size.limit(dense["params"], frame)
    else:
        whole, limit, frame = dense[size.unit], size.limit(dense["params"]), 0.0
        rest = whole - sum(
            Price(size.unit, *group.shape, value_bytes=value).dense
            for group, value in zip(groups, value_bytes, strict=True)
        )
    if not rest + sum(least) <= limit <= whole:
        raise UserError(_infeasible(size, limit, rest, rest + sum(least), whole, frame))
    available = min(limit - rest, sum(wholes))  # in int8 the whole model is smaller than the dense one
    if method.allocation == "equal":
        shares = allocation.equal(available, wholes, least)
    elif method.allocation == "output":
        shares = allocation.by_error(available, wholes, least, output_errors(model, groups, prices, method, guide))
    elif method.allocation == "variance":
        spectra = [svd.principal(guide.weighted(at, group.matrix))[1] for at, group in enumerate(groups)]
        costs = [functools.partial(price.factors, nonzeros=None) for price in prices]
        shares = allocation.by_variance(available, spectra, costs)
    else:

        def errors(at: int, budgets: list[int]) -> list[float]:
            found = solvers.errors(method, guide.weighted(at, groups[at].matrix), prices[at], budgets)
            tell(groups[at].name)
            return found

        shares = allocation.by_error(available, wholes, least, errors, mapped)
    steps = [solvers.step(method, price) for price in prices]
    budgets = allocation.rounded(shares, available, steps, wholes)
    return Plan(size, method, frame, limit, rest, groups, prices, budgets)


def _prices(
    model: nn.Module, size: Size, method: Method, groups: list[MatrixGroup], value_bytes: list[int],
    cost_model: CostModel | None,
) -> list[Price]:  # fmt: skip
    """What each group costs in the unit of `size`."""
    timed: list[dict] = [{} for _ in groups]
    if size.unit == "fs":
        shares = _recurrent_shares(model, size, cost_model)
        timed = [{"cost_model": cost_model, "recurrent_share": share} for share in shares]
    kept = {"value_bytes": 1, "scale_bytes": SCALE_BYTES} if method.dtype == "int8" else {}
    return [
        Price(
            size.unit, *group.shape, block=method.block, shifted=method.shifts > 0, **{"value_bytes": value} | kept,
            **cost,
        )
        for group, value, cost in zip(groups, value_bytes, timed, strict=True)
    ]  # fmt: skip


def _recurrent_shares(model: nn.Module, size: Size, cost_model: CostModel | None) -> list[float]:
    """The share of every group's columns that the recurrence reads, for a model whose time can be told."""
    if cost_model is None:
        raise UserError(f"size {size.text!r} needs --cost_model cost.json; measure the device with `dirnet cost`")
    if not isinstance(model, AcousticModel) or model.config.bidirectional:
        raise UserError(f"size {size.text!r} needs a unidirectional acoustic model; give params or bytes for this one")
    return [share for _, _, share in group_shapes(model.config)]


def describe_plan(plan: Plan) -> str:
    """What a budget would buy, for `--dry_run true`: per group its budget, and the codes beside half of it in atoms."""
    total, whole = plan.rest + sum(plan.budgets), plan.rest + sum(price.dense for price in plan.prices)
    told = functools.partial(_amount, plan.size, frame=plan.frame)
    lines = [
        f"size {plan.size.text}: at most {told(plan.limit)} of {told(whole)}, {told(plan.rest)} of them uncompressed; "
        f"planned {told(total)} ({whole / total:.2f}x)"
    ]
    for group, price, budget in zip(plan.groups, plan.prices, plan.budgets, strict=True):
        shape, ratio = f"{price.rows}x{price.columns}", price.dense / budget
        lines.append(
            f"  {group.name:<20} {shape:>10} {told(price.dense):>18} -> {told(budget):>16} {ratio:7.2f}x  "
            f"{solvers.expected(plan.method, price, budget)}"
        )
    return "\n".join(lines)


def _amount(size: Size, value: int, frame: float) -> str:
    """A number of params or bytes, or the real-time factor that fs per frame amount to."""
    return f"rtf={value / FS / frame:.3g}" if size.unit == "fs" else f"{value:,} {size.unit}"


def _infeasible(size: Size, limit: int, rest: int, least: int, whole: int, frame: float) -> str:
    low, high, stays = (_amount(size, value, frame) for value in (least, whole, rest))
    asked = f"size {size.text!r}" + ("" if size.kind == "rtf" else f" means {limit:,} {size.unit}")
    feasible = f"choose from {low.removesuffix(f' {size.unit}')} to {high}"
    if size.kind == "ratio":
        feasible += f" (1x to {int(100 * whole / least) / 100:g}x)"
    return f"{asked}, out of reach with this method and model, of which {stays} stay as they are; {feasible}"
