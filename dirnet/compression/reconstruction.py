"""After compression every layer learns, alone and without labels, to give again what its dense layer gives.

A factorization sees single steps; here errors travel through time, within a layer. Every layer reads what the dense one
reads, so layers learn side by side: the block reconstruction of Li et al. (2021, BRECQ), for recurrent layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dirnet.compression.calibration import valid_steps
from dirnet.compression.inputs import check_iterable, evaluating, run
from dirnet.errors import UserError
from dirnet.nn.layered import LayerRun, layer_weights, layered, run_layer
from dirnet.nn.permutation import in_order
from dirnet.nn.recurrent import DirNetRecurrent
from dirnet.progress import progress as tell

RATE, WARMUP = 2e-3, 0.1  # of Adam; the share of the steps in which the rate rises, before it falls as a cosine
ALIKE = 1e-6  # the part of its sum of squares that an output's variance has where it counts as constant


@torch.enable_grad()
def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    data: Iterable[Any],
    unit_orders: Mapping[str, Sequence[Sequence[int]]] | None = None,
    *,
    together: int = 1,
    rate: float = RATE,
    progress: bool = True,
) -> list[float]:
    """Train the compressed layers of `model`, in place, to give what those of `dense` give; zeros stay zero.

    dense: the model before its compression. data: inputs of the model, as `dirnet.compress` takes them, `together` of
    them a step; in random order if they differ in length. unit_orders: of the report. rate: the highest one. Returns
    for every step that reaches a layer the share of their outputs' variance that layers miss, their mean. Where
    sequences are packed, or the model is an `AcousticModel`, padding does not count. Frozen parameters, cells and
    everything that is not recurrent stay as they are. Under `torch.autocast` layers run in bfloat16. A model without
    compressed layers that may learn, of other shapes than `dense`, or in half precision, and no data, data that is
    not finite, or that never reaches one of the layers, are a `UserError`.
    """
    check_iterable(data)
    try:
        len(data)
    except TypeError:  # a generator, or a DataLoader whose data set is one
        data = list(data)
    if not len(data) or together < 1:
        raise UserError(f"reconstruction has {len(data)} inputs, {together} a step; give at least one of each")
    dense = in_order(dense, unit_orders or {})
    layers = _compressed(model, dense)
    learned = [value for layer in layers.values() for value in layer.parameters() if value.requires_grad]
    optimizer, missed, steps = torch.optim.Adam(learned, lr=rate), [], math.ceil(len(data) / together)
    unheard = set(layers)
    shown = tell(data, len(data), "reconstruct", "batch") if progress else iter(data)
    for step in range(steps):
        done, calls = (step + 0.5) / steps, {}
        optimizer.param_groups[0]["lr"] = rate * min(done / WARMUP, 1) * (0.5 + 0.5 * math.cos(math.pi * done))
        optimizer.zero_grad(set_to_none=True)
        for inputs in itertools.islice(shown, together):
            lengths = valid_steps(dense, inputs)
            for name, runs in _heard(dense, layers, inputs):
                calls.setdefault(name, []).append((runs, lengths))
        shares = [share for name, heard in calls.items() for share in _missed(layers[name], heard)]
        unheard -= calls.keys()
        if not shares:
            continue
        total = torch.stack(shares).sum()
        total.backward()
        missed.append(float(total.detach()) / len(shares))
        if not math.isfinite(missed[-1]) or not all(_finite(value.grad) for value in learned):
            raise UserError(f"reconstruction gave NaN or infinity in step {step}; look at the inputs")
        optimizer.step()
        torch.clear_autocast_cache()  # of biases in bfloat16, else the first ones to the end
    optimizer.zero_grad(set_to_none=True)
    if unheard:
        name = min(unheard) or "the RNN"
        raise UserError(f"reconstruction data never reaches {name}; give inputs for which the model runs it")
    if not missed:
        raise UserError("no layer's output varies over the reconstruction data; give sequences of more than one step")
    return missed


def reconstruct_and_tell(
    model: nn.Module, dense: nn.Module, data: Sequence[Any], utterances: int, report: dict[str, Any], together: int = 1
) -> str:
    """`reconstruct` on so many utterances, with `report` of the compression, which gains `reconstruction`; a line."""
    missed = reconstruct(model, dense, data, report["unit_orders"], together=together)
    tenth = math.ceil(len(missed) / 10)
    first, last = sum(missed[:tenth]) / tenth, sum(missed[-tenth:]) / tenth
    report["reconstruction"] = {"utterances": utterances, "missed": [first, last]}
    return f"reconstruction: layers now miss {100 * last:.1f} % of their outputs' variance, before {100 * first:.1f} %"


def _compressed(model: nn.Module, dense: nn.Module) -> dict[str, DirNetRecurrent]:
    """Compressed RNNs of `model` that are not frozen, by name; a `UserError` unless `dense` has their dense ones."""
    layers, kinds = {}, dict(dense.named_modules())
    for name, layer in model.named_modules():
        if not isinstance(layer, DirNetRecurrent) or not any(value.requires_grad for value in layer.parameters()):
            continue  # frozen: there is nothing to learn
        other = kinds.get(name)
        if not isinstance(other, layer.dense_class) or isinstance(other, DirNetRecurrent):
            raise UserError(f"{name or 'the model'} is no dense {layer.dense_class.__name__} in the dense model; give "
                            "the model that was compressed")  # fmt: skip
        for key in ("input_size", "hidden_size", "num_layers", "bidirectional", "bias", "batch_first", "mode"):
            ours, theirs = getattr(layer, key), getattr(other, key)
            if ours != theirs:
                raise UserError(f"{name or 'the model'} has {key} {ours}, the dense model {theirs}; give the model "
                                "that was compressed")  # fmt: skip
        ours, theirs = (next(rnn.parameters()) for rnn in (layer, other))
        if (ours.dtype, ours.device) != (theirs.dtype, theirs.device):
            raise UserError(f"{name or 'the model'} is {ours.dtype} on {ours.device}, in the dense model "
                            f"{theirs.dtype} on {theirs.device}; bring both to one type and device")  # fmt: skip
        if ours.dtype not in (torch.float32, torch.float64):
            raise UserError(f"{name or 'the model'} is {ours.dtype}, whose steps Adam rounds away; reconstruct in "
                            "float32")  # fmt: skip
        layers[name] = layer
    if not layers:
        raise UserError("the model has no compressed LSTM, GRU or RNN that may learn; compress it, or unfreeze it")
    return layers


def _heard(dense: nn.Module, names: Iterable[str], inputs: Any) -> list[tuple[str, list[LayerRun]]]:
    """(name, layers) of every call of the named RNNs while `dense` reads `inputs`."""
    heard: list[tuple[str, list[LayerRun]]] = []
    rnns = {name: dense.get_submodule(name) for name in names}
    with layered(rnns, lambda *call: heard.append(call)), evaluating(dense), torch.no_grad():
        run(dense, inputs)
    return heard


def _missed(layer: DirNetRecurrent, calls: list[tuple[list[LayerRun], Tensor | None]]) -> list[Tensor]:
    """The share of the variance of every layer's output that the compressed one misses, reading the same.

    calls: all of a step, each with its `valid_steps`; taken together, as a single one may be of one step only. Layers
    whose output does not vary are left out.
    """
    found = []
    for number, weights in enumerate(layer_weights(layer)):
        pairs = []
        for runs, lengths in calls:
            one = runs[number]
            output, *_ = run_layer(layer, weights, one.reads, one.start, one.batch_sizes)
            pairs.append([_whole(one.steps(values, layer, lengths)) for values in (output, one.output)])
        written, wanted = (torch.cat(values) for values in zip(*pairs, strict=True))
        spread = (wanted - wanted.mean(0)).square().sum()
        if not spread <= ALIKE * wanted.square().sum():  # NaN is not left out
            found.append((written - wanted).square().sum() / spread)
    return found


def _whole(values: Tensor) -> Tensor:
    """bfloat16 of autocast as float32: sums of squares would keep three digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())
