"""The peer without compression: a dense model of the same kind with as many units as the budget allows."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from dirnet.compression.budget import Size
from dirnet.compression.groups import dense_rnns
from dirnet.compression.report import size_figures
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


def small_model(model: nn.Module, size: Size, seed: int, asked: dict[str, Any]) -> tuple[AcousticModel, dict[str, Any]]:
    """A freshly initialised dense model as `small_config` has it, and a report as `compress` writes it.

    asked: what the report says of the method. `relative_error` is None, `groups` empty: nothing was approximated.
    """
    config, limit = small_config(model, size), size.limit(size_figures(model)["params"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        small = AcousticModel(config).eval()
    dense, figures = size_figures(model), size_figures(small)
    report = asked | {
        "size": size.text,
        "limit": {size.unit: limit},
        "seed": seed,
        "dense": dense,
        "compressed": figures,
        "ratio": dense["params"] / figures["params"],
        "uncompressed": {unit: figures[unit] for unit in ("params", "bytes")},
        "relative_error": None,
        "groups": [],
        "hidden_size": config.hidden_size,
    }
    return small, report


def small_config(model: nn.Module, size: Size) -> AcousticModelConfig:
    """The configuration of `model`, an `AcousticModel`, dense, with the largest hidden size within `size`.

    Layers, inputs and outputs stay. Any other module is a `UserError`, as is a size that one unit exceeds.
    """
    if not isinstance(model, AcousticModel):
        raise UserError(
            f"method small builds acoustic models only, not a {type(model).__name__}; construct the module with fewer "
            "units yourself and compare dirnet.compression.report.size_figures"
        )
    dense_rnns(model)  # refuses a compressed one
    if size.kind == "rtf":
        raise UserError(f"size {size.text!r} is not for method small; give a ratio, parameters or bytes")
    config, whole = model.config, size_figures(model)
    limit = size.limit(whole["params"])
    if not _cost(config, 1, size) <= limit <= whole[size.unit]:
        raise UserError(
            f"size {size.text!r} means {limit:,} {size.unit}, out of reach with a smaller dense model; choose from "
            f"{_cost(config, 1, size):,} to {whole[size.unit]:,} {size.unit}"
        )
    low, high = 1, config.hidden_size + 1  # low fits; the whole is asked for at most
    while high - low > 1:
        middle = (low + high) // 2
        if _cost(config, middle, size) <= limit:
            low = middle
        else:
            high = middle
    return dataclasses.replace(config, hidden_size=low)


def describe_small(model: nn.Module, size: Size) -> str:
    """What a budget would buy, for `--dry_run true`."""
    config = small_config(model, size)
    limit, cost = size.limit(size_figures(model)["params"]), _cost(config, config.hidden_size, size)
    return f"size {size.text}: at most {limit:,} {size.unit}; {config.hidden_size} dense units a layer take {cost:,}"


def _cost(config: AcousticModelConfig, hidden_size: int, size: Size) -> int:
    with torch.device("meta"):
        return size_figures(AcousticModel(dataclasses.replace(config, hidden_size=hidden_size)))[size.unit]
