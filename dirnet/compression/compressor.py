"""From a trained model to a compressed one: find the groups, divide the budget, factorize, rebuild, report."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dirnet.compression.budget import Price, parse_size
from dirnet.compression.groups import MatrixGroup, dense_rnns, replace
from dirnet.compression.guide import move_biases
from dirnet.compression.methods import Method, find_method
from dirnet.compression.parallel import workers
from dirnet.compression.preparation import Prepared, moves_units, prepare
from dirnet.compression.report import group_figures, relative_error, running_time, size_figures
from dirnet.compression.small import small_model
from dirnet.compression.solvers import Task, factorize
from dirnet.errors import UserError
from dirnet.factorization import Factors
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.cells import in_place_of, origin
from dirnet.nn.grouping import groups_of
from dirnet.nn.quantised import check_holds_int8
from dirnet.nn.recurrent import coded_class, uncast
from dirnet.nn.running import CostModel
from dirnet.progress import Meter

PLANNING = 0.2  # of a group's time goes into its share of the budget


def compress(
    model: nn.Module,
    size: str = "7.9x",
    method: str | Method = "dirnet",
    block: int | None = None,
    preset: str | None = None,
    seed: int = 0,
    progress: bool = True,
    dtype: str | None = None,
    data: Iterable[Any] | None = None,
    nj: int = 1,
    cost_model: CostModel | None = None,
    states_inside: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Compress every nn.LSTM, nn.GRU, nn.RNN and cell of `model`, in place; returns the model and a report.

    Use the returned model: where `model` is itself an RNN it cannot be changed in place. The dense layers that coded
    ones replace stay as they were, for whoever keeps them; what was frozen stays frozen. size: of the whole model,
    everything uncompressed counted: `7.9x` fewer parameters, `1.3M` parameters, `2MB` as stored, or `rtf=0.05` by
    `cost_model` (see `dirnet.nn.running.load_cost_model`); the result is at most this. method: a name of `METHODS`, or
    a `Method`. block, preset, dtype: instead of the method's; with `int8` fine-tuning is quantisation-aware, biases and
    all else stay float32. Equal seeds give equal models. data: calibration data for methods that use it, an iterable of
    inputs of the model (see `dirnet.compression.calibration.calibrate`), read to its end. Raises UserError for an
    unknown method, a size out of reach, or a model without RNNs. Solver `small` leaves `model` alone and returns a new,
    untrained one. nj: groups worked on at the same time, a core each; the result does not depend on it.
    states_inside: no RNN is given states but its own, and nothing else reads them (`h_n`); known of our own models.
    Only then do methods with blocks reorder hidden units; the report tells the order.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}, expected a torch.nn.Module; build it, load its weights")
    if torch.is_inference_mode_enabled():
        raise UserError("compress makes parameters, which in torch.inference_mode() could not be trained; leave it")
    if not isinstance(method, str | Method):
        raise UserError(f"method is {method!r}, expected the name of one or a dirnet.compression.methods.Method")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed!r}, expected a whole number from 0 to 2^63 - 1")
    name = method if isinstance(method, str) else method.solver
    method = (find_method(method) if isinstance(method, str) else method).changed(block, preset, dtype)
    wanted, settings = parse_size(size), {"method": name, "settings": dataclasses.asdict(method)}
    if method.solver == "small":
        return small_model(model, wanted, seed, settings)
    rnns, dense = dense_rnns(model), size_figures(model)
    dense_config = model.config if isinstance(model, AcousticModel) else None
    if method.dtype == "int8":
        for rnn in rnns.values():
            check_holds_int8(rnn.weight_ih_l0.dtype)
    total = sum(len(groups_of(rnn, method.grouping(rnn))) for rnn in rnns.values())
    moved = rnns if moves_units(model, method, states_inside) else {}
    with (
        uncast(torch.device("cpu")),  # matrices are factorized there, by numpy, too; threads have no autocast
        _copied(model, moved) as model,
        workers(nj) as mapped,
        Meter(total, "compress", "group", shown=progress) as meter,
    ):

        def planned(name: str) -> None:
            meter.tell(name, "allocate", PLANNING)

        prepared = prepare(
            model, wanted, method, data, seed, states_inside=states_inside, mapped=mapped, tell=planned,
            cost_model=cost_model,
        )  # fmt: skip
        guide, plan = prepared.guide, prepared.plan

        def solved_group(at: int, group: MatrixGroup, price: Price, budget: int) -> tuple[Factors, dict[str, Any]]:
            def tell(fraction: float, stage: str) -> None:
                meter.tell(group.name, stage, PLANNING + (1 - PLANNING) * fraction)

            started, whole = time.monotonic(), budget >= price.dense  # kept as it is: weighting would only round it
            matrix = group.matrix if whole else guide.weighted(at, group.matrix)
            task = Task(matrix, price, budget, seed, group.w_h_columns, tell)
            factors, details = factorize(method, task)
            tell(1.0, "done")
            seconds = round(time.monotonic() - started, 2)
            factors = factors if whole else guide.restored(at, factors)
            return factors.balanced(), {"budget": budget, "seconds": seconds, "solver": details}

        solved = list(mapped(solved_group, range(total), plan.groups, plan.prices, plan.budgets))
        with torch.random.fork_rng(devices=[]):  # new layers begin with random values
            model, rows = _rebuilt(model, method, prepared, solved)
    small = size_figures(model)
    report = settings | {
        "size": size,
        "limit": {"rtf": plan.size.value} if plan.size.kind == "rtf" else {plan.size.unit: plan.limit},
        "seed": seed,
        "dense": dense,
        "compressed": small,
        "ratio": dense["params"] / small["params"],
        "uncompressed": {unit: small[unit] - sum(row[unit] for row in rows) for unit in ("params", "bytes")},
        "relative_error": relative_error(plan.groups, rows),
        "groups": rows,
        "unit_orders": prepared.orders,
    }
    if cost_model is not None and dense_config is not None:
        report |= running_time(cost_model, dense_config, model.config)
    return model, report


@contextlib.contextmanager
def _copied(model: nn.Module, rnns: Mapping[str, nn.RNNBase]) -> Iterator[nn.Module]:
    """`model` with copies of `rnns`, in which units may change places: someone may keep the dense layers.

    Whatever ends the block early gives back the old ones, and the output layer of an `AcousticModel` as it was.
    """
    copies = {origin(rnn): copy.deepcopy(origin(rnn)) for rnn in rnns.values()}
    output = model.output.weight.detach() if isinstance(model, AcousticModel) else None
    before = None if output is None else output.clone()
    changed = replace(model, copies)
    try:
        yield changed
    except BaseException:
        replace(model, {new: old for old, new in copies.items()})
        if output is not None:
            output.copy_(before)
        raise


def _rebuilt(
    model: nn.Module, method: Method, prepared: Prepared, solved: Sequence[tuple[Factors, dict[str, Any]]]
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """`model` with coded layers of the `solved` factors in the place of its RNNs, and figures of each group."""
    replacements, rows, at = {}, [], 0
    for rnn in dense_rnns(model).values():
        places = range(at, at + len(groups_of(rnn, method.grouping(rnn))))
        factors = [solved[place][0] for place in places]
        layer = coded_class(rnn).from_dense(
            rnn, factors, block=method.block, dtype=method.dtype, input_group=method.grouping(rnn)
        )
        if prepared.guide.statistics:
            lost = [prepared.plan.groups[place].matrix - solved[place][0].reconstruct() for place in places]
            move_biases(layer, map(prepared.guide.bias_step, places, lost))
        replacements[origin(rnn)] = in_place_of(rnn, layer)
        for coded, place in zip(layer.groups, places, strict=True):
            group = prepared.plan.groups[place]
            rows.append(group_figures(group.name, group.matrix, coded) | solved[place][1])
        at = places.stop
    return replace(model, replacements), rows
