"""`dirnet_wrap`: any class of ESPnet's choices with its recurrent layers compressed.

    model: dirnet_wrap                      encoder: dirnet_wrap
    model_conf:                             encoder_conf:
        base: espnet                            base: vgg_rnn
        ctc_weight: 0.3                         base_conf: {num_layers: 3}
        layers:                                 size: 4x
            encoder.enc.0.birnn0:
                layout: [[40, 5000], [60, 9000], [60, 9000]]

The stock class builds the stock module; its RNNs and cells are then replaced by DirNet's, which are drop-ins. What
comes out is an object of the stock class, so ESPnet's own programs see nothing new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from dirnet.compression.budget import Price, parse_size
from dirnet.compression.groups import dense_rnns, matrix_groups, replace
from dirnet.compression.methods import METHODS
from dirnet.compression.solvers import split
from dirnet.errors import UserError, did_you_mean
from dirnet.espnet.registry import CHOICES, WRAP
from dirnet.nn.cells import origin
from dirnet.nn.settings import empty_layer, scatter_support

NAME = WRAP


def register(task: ModuleType) -> None:
    """Add `dirnet_wrap` to the choices of one of ESPnet's tasks, such as `espnet2.tasks.asr`; again changes nothing."""
    for choices in (getattr(task, name) for name in CHOICES if hasattr(task, name)):
        choices.classes.setdefault(NAME, wrapper(choices))


def wrapper(choices: Any) -> type:
    """The class `dirnet_wrap` of ESPnet's `choices` (`ClassChoices`)."""

    def new(cls, *args, base, base_conf=None, layers=None, size=None, block=1, dtype="float32", **others) -> nn.Module:
        """An object of the class called `base`.

        base_conf: its arguments, to which all others here go, too. layers: by module name what `settings_of` gives;
        what is not named stays dense. Instead of layers, size: `4x` fewer weights in each recurrent layer, places of
        the codes drawn at random, to train from scratch; block, dtype: as in `DirNetRecurrent`.
        """
        if base not in choices.classes or base == NAME:
            known = [name for name in choices.classes if name != NAME]
            raise UserError(f"{choices.name}_conf: base is {base!r}; {did_you_mean(str(base), known)}")
        if (layers is None) == (size is None):
            raise UserError(f"{choices.name}_conf: give either layers or size, the other stays away")
        module = choices.classes[base](*args, **{**others, **(base_conf or {})})
        if size is not None:
            layers = scratch_layers(module, size, block, dtype)
        return rebuilt(module, layers, f"{choices.name}_conf: layers", scattered=size is not None)

    name = "DirNetWrap" + choices.name.title()
    return type(name, (choices.base_type or object,), {"__new__": new, "__doc__": new.__doc__, "__module__": __name__})


def rebuilt(module: nn.Module, layers: Mapping[str, Any], where: str, scattered: bool = False) -> nn.Module:
    """`module` with an empty compressed layer in the place of every dense one named in `layers`.

    scattered: draw the places of their codes at random. Names of no dense layer are `UserError`s; `where` says whose.
    """
    dense = {name: origin(rnn) for name, rnn in dense_rnns(module).items()}
    replacements = {}
    for name, settings in layers.items():
        if name not in dense:
            raise UserError(f"{where}: {name!r} is no recurrent layer of {type(module).__name__}; "
                            + did_you_mean(name, dense))  # fmt: skip
        layer = empty_layer(dense[name], dict(settings), f"{where}: {name}")
        if scattered:
            scatter_support(layer)
        layer.espnet_initialization_fn = layer.reset_parameters  # `init:` of a config would treat codes as a layer
        replacements[dense[name]] = layer
    return replace(module, replacements)


def scratch_layers(module: nn.Module, size: str, block: int, dtype: str) -> dict[str, Any]:
    """Settings that make every recurrent layer of `module` smaller by the ratio `size`, half of it dictionary."""
    wanted, method, layers = parse_size(size), METHODS["dirnet"], {}
    if wanted.kind != "ratio":
        raise UserError(f"size is {size!r}, expected a ratio such as 4x: a wrapped part does not know the whole model")
    for name, rnn in dense_rnns(module).items():
        layout = []
        for group in matrix_groups(rnn):
            if group.shape[1] % block:
                raise UserError(f"block {block} does not divide the {group.shape[1]} columns of {name}.{group.name}; "
                                f"give {math.gcd(block, group.shape[1])} or another divisor")  # fmt: skip
            price = Price("params", *group.shape, block)
            atoms, nonzeros = split(method, price, int(price.dense / wanted.value))
            layout.append([atoms, nonzeros // block])
        layers[name] = {"layout": layout, "block": block, "dtype": dtype}
    return layers
