"""After compression every layer learns, alone and without labels, to give again what its dense layer gives.

A factorization sees single steps; here errors travel through time, within a layer. Every layer reads what the dense one
reads, so layers learn side by side: the block reconstruction of Li et al. (2021, BRECQ), for recurrent layers.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dirnet.compression.calibration import valid_steps
from dirnet.compression.inputs import check_iterable, evaluating, run
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.permutation import permute_acoustic_model, permute_units
from dirnet.nn.recurrent import DirNetRecurrent
from dirnet.progress import progress as tell

RATE, WARMUP = 2e-3, 0.1  # of Adam; the share of the steps in which the rate rises, before it falls as a cosine
STEP = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}


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
    for every step the share of their outputs' variance that layers miss, the mean over layers. Where sequences are
    packed, or the model is an `AcousticModel`, padding does not count. Frozen parameters, cells and everything that is
    not recurrent stay as they are. A model without compressed layers that may learn, of other shapes than `dense`, or
    in half precision, and no data, or data that is not finite, are a `UserError`.
    """
    check_iterable(data)
    data = data if isinstance(data, Sized) else list(data)
    if not len(data) or together < 1:
        raise UserError(f"reconstruction has {len(data)} inputs, {together} a step; give at least one of each")
    dense = _in_order(dense, unit_orders or {})
    pairs = _pairs(model, dense)
    learned = [value for layer, _ in pairs.values() for value in layer.parameters() if value.requires_grad]
    optimizer, missed, steps = torch.optim.Adam(learned, lr=rate), [], math.ceil(len(data) / together)
    shown = tell(data, len(data), "reconstruct", "batch") if progress else iter(data)
    for step in range(steps):
        done, shares = (step + 0.5) / steps, []
        optimizer.param_groups[0]["lr"] = rate * min(done / WARMUP, 1) * (0.5 + 0.5 * math.cos(math.pi * done))
        optimizer.zero_grad(set_to_none=True)
        for inputs in itertools.islice(shown, together):
            lengths = valid_steps(dense, inputs)
            for name, read in _heard(dense, pairs, inputs):
                parts = torch.stack(_missed(*pairs[name], *read, lengths))
                parts.sum().backward()
                shares += parts.tolist()
        if not shares:
            raise UserError("reconstruction data reaches no compressed layer; give inputs for which the model runs it")
        missed.append(sum(shares) / len(shares))
        if not math.isfinite(missed[-1]):
            raise UserError(f"reconstruction gave NaN or infinity in step {step}; look at the inputs")
        optimizer.step()
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


def _in_order(dense: nn.Module, orders: Mapping[str, Sequence[Sequence[int]]]) -> nn.Module:
    """`dense`, or a copy whose hidden units are in the order that compression gave them."""
    if not orders:
        return dense
    dense = copy.deepcopy(dense)
    for name, states in orders.items():
        moved = [torch.tensor(order) for order in states]
        if isinstance(dense, AcousticModel):
            permute_acoustic_model(dense, moved)
        elif isinstance(layer := dense.get_submodule(name), nn.RNNBase):  # units of a cell stay
            permute_units(layer, moved)
    return dense


def _pairs(model: nn.Module, dense: nn.Module) -> dict[str, tuple[DirNetRecurrent, nn.RNNBase]]:
    """Compressed layers of `model` that are not frozen, and dense ones of `dense`, by name."""
    pairs, kinds = {}, dict(dense.named_modules())
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
        if (dtype := other.weight_hh_l0.dtype) not in (torch.float32, torch.float64):
            raise UserError(f"{name or 'the model'} is {dtype}, whose steps Adam rounds away; reconstruct in float32")
        pairs[name] = layer, other
    if not pairs:
        raise UserError("the model has no compressed LSTM, GRU or RNN that may learn; compress it, or unfreeze it")
    return pairs


def _heard(dense: nn.Module, names: Mapping[str, Any], inputs: Any) -> list[tuple[str, tuple[Any, Any]]]:
    """(name, (input, states)) of every call of the named layers while `dense` reads `inputs`."""
    heard: list[tuple[str, tuple[Any, Any]]] = []

    def listen(name: str):
        def hook(_, given: tuple, named: dict[str, Any]) -> None:
            given = (*given, *(named[key] for key in ("input", "hx") if key in named))
            heard.append((name, (given[0], given[1] if len(given) > 1 else None)))

        return hook

    hooks = [dense.get_submodule(name).register_forward_pre_hook(listen(name), with_kwargs=True) for name in names]
    try:
        with evaluating(dense), torch.no_grad():
            run(dense, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return heard


def _missed(layer: DirNetRecurrent, dense: nn.RNNBase, input: Any, states: Any, lengths: Tensor | None) -> list[Tensor]:
    """The share of the variance of every single layer's output that the compressed one misses, reading the same."""
    values, batch, starts = _laid_out(dense, input, states)
    valid = None if batch is not None else _mask(dense, values, lengths)
    directions, weights, found = 2 if dense.bidirectional else 1, (layer.all_weights, dense.all_weights), []
    for number, start in enumerate(starts):
        at = slice(number * directions, (number + 1) * directions)
        ours, theirs = (_output(dense, sum(stack[at], []), values, batch, start) for stack in weights)
        values = theirs.detach()
        written, wanted = (steps.flatten(0, -2) if valid is None else steps[valid] for steps in (ours, values))
        spread = (wanted - wanted.mean(0)).square().sum().clamp_min(torch.finfo(wanted.dtype).tiny)
        found.append((written - wanted).square().sum() / spread)
    return found


def _laid_out(rnn: nn.RNNBase, input: Any, states: Any) -> tuple[Tensor, Tensor | None, list[list[Tensor]]]:
    """What `rnn` was given, as torch.lstm takes it: steps, the batch sizes of packed ones, states of each layer."""
    values, batch = (input.data, input.batch_sizes) if isinstance(input, PackedSequence) else (input, None)
    lone = batch is None and values.dim() == 2
    if lone:
        values = values.unsqueeze(0 if rnn.batch_first else 1)
    size = int(batch[0]) if batch is not None else values.shape[0 if rnn.batch_first else 1]
    directions = 2 if rnn.bidirectional else 1
    if states is None:
        zeros = values.new_zeros(rnn.num_layers * directions, size, rnn.hidden_size)
        given = [zeros] * (2 if rnn.mode == "LSTM" else 1)
    else:
        given = [states] if isinstance(states, Tensor) else list(states)
        given = [state.unsqueeze(1) if lone else state for state in given]
        if batch is not None and input.sorted_indices is not None:
            given = [state.index_select(1, input.sorted_indices) for state in given]
    return values, batch, [[*parts] for parts in zip(*(state.split(directions) for state in given), strict=True)]


def _output(rnn: nn.RNNBase, weights: list[Tensor], values: Tensor, batch: Tensor | None, states: list[Tensor]):
    """The output of one layer, with these weights, of the kind and the layout of `rnn`."""
    states = states if rnn.mode == "LSTM" else states[0]
    after = (weights, rnn.bias, 1, 0.0, True, rnn.bidirectional)
    if batch is not None:
        return STEP[rnn.mode](values, batch, states, *after)[0]
    return STEP[rnn.mode](values, states, *after, rnn.batch_first)[0]


def _mask(rnn: nn.RNNBase, values: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Which steps of a padded batch count, in its layout; None: all."""
    if lengths is None:
        return None
    steps = torch.arange(values.shape[1 if rnn.batch_first else 0])
    mask = (steps < lengths.cpu()[:, None]).to(values.device)
    return mask if rnn.batch_first else mask.T
