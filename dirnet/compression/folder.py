"""A compressed module of any class in a folder, in as many bytes as `compress` told: `dirnet.save`, `dirnet.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dirnet.compression.groups import KINDS, replace
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.coding import CodedLayer
from dirnet.nn.settings import empty_layer, settings_of


def save(model: nn.Module, folder: str | Path) -> None:
    """Write `model.safetensors`, all weights as small as they are, and `model.json`, what its compressed layers are.

    A model without compressed layers, or with a NaN or an infinity, is a `UserError`.
    """
    layers = {
        name: _kind(module) | settings_of(module)
        for name, module in model.named_modules()
        if isinstance(module, CodedLayer)
    }
    if not layers:
        raise UserError(f"{type(model).__name__} has no compressed layers; compress it first, or use torch.save")
    storage.write(model, folder, storage.MODULE_FORMAT, {"class": type(model).__name__, "layers": layers})


def load(model: nn.Module, folder: str | Path) -> nn.Module:
    """`model`, built as before its compression, with the compressed layers and all weights that `save` wrote.

    It is changed in place; use the returned model, as with `compress`. A folder of another model, and what is damaged,
    missing or not finite in it, is a `UserError`, and `model` may then be half changed.
    """
    description, replacements = storage.describe(folder, storage.MODULE_FORMAT), {}
    where = f"{folder}/{storage.DESCRIPTION}"
    layers = description["config"].get("layers")
    if not isinstance(layers, dict):
        raise UserError(f"{where} describes no layers; {storage.AGAIN}")
    for name, settings in layers.items():
        try:
            dense = model.get_submodule(name)
        except AttributeError:
            dense = None
        if not isinstance(dense, KINDS) or isinstance(dense, CodedLayer):
            raise UserError(f"{where} tells of layer {name!r}, where {type(model).__name__} has no dense nn.LSTM, "
                            "nn.GRU, nn.RNN or cell; give the model as it was before its compression")  # fmt: skip
        if not isinstance(settings, dict):
            raise UserError(f"{where}: {name} describes no layer; {storage.AGAIN}")
        told = dict(settings)
        for key, here in _kind(dense).items():
            if (kept := told.pop(key, here)) != here:  # older folders do not tell
                raise UserError(f"{where}: layer {name!r} has {key} {kept}, in the model it is {here}; give the model "
                                "as it was before its compression")  # fmt: skip
        first = next(dense.parameters())
        try:
            layer = empty_layer(dense, told, f"{where}: {name}")
        except (RuntimeError, TypeError) as error:  # such as a billion atoms
            raise UserError(f"{where}: {name} describes no layer ({error}); {storage.AGAIN}") from None
        replacements[dense] = layer.to(first.device, first.dtype)
    model = replace(model, replacements)
    storage.take(model, folder, description)
    return model


def _kind(layer: nn.Module) -> dict[str, Any]:
    """In what layers with the same weights may differ."""
    told = {"kind": next(kind.__name__ for kind in KINDS if isinstance(layer, kind))}
    return told | {name: getattr(layer, name) for name in ("nonlinearity", "batch_first") if hasattr(layer, name)}
