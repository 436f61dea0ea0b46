"""The matrices of a model that share a dictionary, found in any `nn.Module` that holds torch RNNs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dirnet.errors import UserError
from dirnet.nn.cells import as_layer, origin
from dirnet.nn.coding import CodedLayer
from dirnet.nn.grouping import Group, gather, groups_of
from dirnet.nn.recurrent import coded_class, refuse_projection

KINDS = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
FORWARDS = {kind.forward for kind in KINDS}
SETUP = ("reset_parameters", "flatten_parameters", "extra_repr")  # methods that say nothing of what a layer does
QUANTISED = ("LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell")  # of torch.ao.nn.quantized.dynamic and its like


@dataclass(frozen=True)
class MatrixGroup:
    """`matrix` (N, M) = W of `dirnet.factorization`, on the CPU: all weights that read one vector. `name` is unique.

    reads_input: that vector is the layer's input. w_h_columns: the first so many columns are W_h, whose dictionary the
    others may take over; None where all columns stand on the same footing.
    """

    name: str
    matrix: Tensor
    reads_input: bool = False
    w_h_columns: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M)."""
        return self.matrix.shape[0], self.matrix.shape[1]


def dense_rnns(model: nn.Module) -> dict[str, nn.RNNBase]:
    """The dense nn.LSTM, nn.GRU and nn.RNN in `model` by their module name ("" for the model itself).

    Their one-step cells are among them, as layers (see `as_layer`). What cannot be compressed is a `UserError`: a
    projection, a quantised layer, another kind of recurrent module, a layer that `torch.compile` holds or that is on
    the device `meta`, a parameter that something else has, too, a model without any or compressed already.
    """
    rnns = {}
    for name, module in model.named_modules():
        if type(module).__name__ in QUANTISED and "quant" in type(module).__module__:
            raise UserError(f"{name or 'the model'} is a quantised {type(module).__name__}; start from the float model")
        if isinstance(inner := getattr(module, "_orig_mod", None), KINDS):  # whose code would run on dense weights
            raise UserError(f"{name or 'the model'} is a compiled {type(inner).__name__}; compress first, then compile")
        if isinstance(module, nn.RNNCellBase) and not isinstance(module, CodedLayer):
            _refuse_changed(name, module)
            rnns[name] = as_layer(module)
        elif isinstance(module, nn.RNNBase) and not isinstance(module, CodedLayer):
            coded_class(module)  # refuses an unknown one
            refuse_projection(module, f"{name}, an LSTM," if name else "LSTM")
            _refuse_changed(name, module)
            rnns[name] = module
    if not rnns:
        compressed = any(isinstance(module, CodedLayer) for module in model.modules())
        why = "is compressed already; start from the dense model" if compressed else "has no nn.LSTM, nn.GRU or nn.RNN"
        raise UserError(f"{type(model).__name__} {why}")
    _refuse_shared(model, rnns)
    return rnns


def _refuse_shared(model: nn.Module, rnns: dict[str, nn.RNNBase]) -> None:
    """A `UserError` for a parameter of an RNN that also stands elsewhere: the coded one could not."""
    inside = {origin(rnn) for rnn in rnns.values()}
    owners = {
        id(parameter): f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if module not in inside
        for own, parameter in module.named_parameters(recurse=False)
    }
    for name, rnn in rnns.items():
        for own, parameter in rnn.named_parameters(remove_duplicate=False):
            full = f"{name}.{own}" if name else own
            if (other := owners.setdefault(id(parameter), full)) != full:
                raise UserError(f"{full} is also {other}, which compressed layers cannot share; give each its own")


def _refuse_changed(name: str, module: nn.Module) -> None:
    """A `UserError` for a layer without values, or one that does more than torch's: the compressed one would not."""
    kind, where = type(module).__name__, name or "the model"
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UserError(f"{where}, a {kind}, is on the device meta, which keeps no values; load its weights first")
    if type(module).forward not in FORWARDS or "forward" in module.__dict__:
        raise UserError(f"{where}, a {kind}, has a forward of its own, which would be lost; compress the layer in it")
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if is_parametrized(module) or any(hooks):
        raise UserError(f"{where}, a {kind}, has hooks or parametrizations, which would be lost; remove them first")
    if added := _added(module):
        raise UserError(f"{where}, a {kind}, holds {added[0]}, which torch's has not and which would be lost; keep it "
                        "outside of the layer")  # fmt: skip


def _added(module: nn.Module) -> list[str]:
    """Names that torch's layer has not: of parameters, modules, buffers, and of methods of a subclass."""
    parameters = [name for name in module._parameters if not name.startswith(("weight_", "bias_"))]
    others = [name for name, _ in (*module.named_children(), *module.named_buffers())]
    classes = [kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] not in ("torch", "builtins")]
    names = [name for kind in classes for name in vars(kind) if not name.startswith("_") and name not in SETUP]
    return [*parameters, *others, *names]


def matrix_groups(rnn: nn.RNNBase, prefix: str = "", input_group: str | None = None) -> list[MatrixGroup]:
    """The groups of one layer stack, in the order of `groups_of`, which also says what `input_group` may be.

    The input is a group of its own. Each hidden state has one dictionary for its W_hh and the W_ih of the layer above
    (Eqs. 5-8); the last one for its W_hh alone, because the output layer stays as it is: it is 0.2 % of the 5x500
    model, and the layer where an error is felt most directly.
    """
    weights = {name: parameter.detach().float().cpu() for name, parameter in rnn.named_parameters()}
    for name, weight in weights.items():
        if broken := int((~weight.isfinite()).sum()):
            raise UserError(f"{prefix}{name} has {broken} NaN or infinite of {weight.numel()} values; was the training "
                            "unstable? Go back to an earlier checkpoint")  # fmt: skip
        largest = float(weight.abs().max())
        if largest and not 1e-15 < largest < 1e15:  # whose squares float32 loses
            raise UserError(f"{prefix}{name} has {largest:.1e} as its largest value, expected 1e-15 to 1e15; was the "
                            "training unstable? Go back to an earlier checkpoint")  # fmt: skip
    return [
        MatrixGroup(prefix + group.name, gather(weights, group), group.name == "input", _w_h_columns(group))
        for group in groups_of(rnn, input_group)
    ]


def _w_h_columns(group: Group) -> int | None:
    return None if group.name == "input" or group.vectors > 1 else group.columns // len(group.members)


def replace(model: nn.Module, replacements: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put each new module wherever the old one stands in `model`; the model itself may be one of them."""
    if model in replacements:
        return replacements[model]
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):  # named_children names a shared child once only
            if child in replacements:
                setattr(module, name, replacements[child])
    return model
