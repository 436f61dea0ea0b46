"""What a compression does before it factorizes: calibrate, order the units, divide the budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dirnet.compression.budget import Size
from dirnet.compression.guide import Guide, make_guide
from dirnet.compression.methods import Method
from dirnet.compression.ordering import reorder
from dirnet.compression.parallel import Map
from dirnet.compression.plan import Plan, make_plan
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.language import LanguageModel
from dirnet.nn.running import CostModel


@dataclass(frozen=True)
class Prepared:
    """`orders`: the new order of the hidden units of each RNN, by its name; empty where they stay."""

    guide: Guide
    orders: dict[str, list[list[int]]]
    plan: Plan


def prepare(
    model: nn.Module,
    size: Size,
    method: Method,
    data: Iterable[Any] | None = None,
    seed: int = 0,
    *,
    states_inside: bool = False,
    mapped: Map = map,
    tell: Callable[[str], None] = lambda name: None,
    cost_model: CostModel | None = None,
) -> Prepared:
    """See `dirnet.compress`; the units of `model` change places in place, its function stays the same.

    mapped, tell: of `make_plan`.
    """
    guide, orders = make_guide(model, method, data, seed), {}
    if moves_units(model, method, states_inside):
        even = make_plan(model, size, dataclasses.replace(method, allocation="equal"), cost_model=cost_model)
        guide, orders = reorder(model, method, even, guide)
    return Prepared(guide, orders, make_plan(model, size, method, guide, mapped, tell, cost_model))


def moves_units(model: nn.Module, method: Method, states_inside: bool) -> bool:
    """Whether hidden units of `model` change places."""
    inside = states_inside or isinstance(model, AcousticModel | LanguageModel)
    return method.permute and method.block > 1 and inside
