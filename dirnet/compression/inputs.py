"""Calibration data: inputs of any form that a model takes, what it gives for them, and whether data are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dirnet.errors import UserError

# what models raise at inputs that they do not take
REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode; then every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_iterable(data: Any) -> None:
    """A `UserError` for one input, or a path, where an iterable of inputs is meant."""
    if isinstance(data, str | Path):
        raise UserError(f"data is {str(data)!r}, expected an iterable of inputs of the model; read the file first")
    if isinstance(data, (Tensor, PackedSequence, Mapping)):
        raise UserError(f"data is one {type(data).__name__}, expected an iterable of inputs of the model; give [data]")
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise UserError(f"data is {data!r}, expected an iterable of inputs of the model, such as a list of tensors")


def run(model: nn.Module, inputs: Any) -> Any:
    """The output of `model` for a tensor, a tuple of arguments, or a mapping of keywords; a `UserError` if it fails."""
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
            return model(*inputs)
        return model(inputs)
    except REFUSALS as error:
        if isinstance(error, UserError):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the model refuses an input, {_shapes(inputs)} ({first}); give data that it takes") from error


def _shapes(inputs: Any) -> str:
    """Names and shapes of the tensors in `inputs`, which tell a sequence that is too short."""
    if isinstance(inputs, PackedSequence):
        return f"{len(inputs.batch_sizes)} packed steps"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {_shapes(value)}" for name, value in inputs.items())
    if isinstance(inputs, (tuple, list)):
        return ", ".join(map(_shapes, inputs))
    return str(tuple(inputs.shape)) if isinstance(inputs, Tensor) else type(inputs).__name__


def digest(batches: Iterable[Any]) -> str:
    """A sha256 of names, types, shapes and values of the tensors in tuples or dicts: whether data are the same."""
    content = hashlib.sha256()
    for batch in batches:
        for name, value in sorted(batch.items()) if isinstance(batch, dict) else enumerate(batch):
            content.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return content.hexdigest()


def first_tensor(output: Any) -> Tensor:
    """The first tensor of what a module returned, looking into tuples, dicts and packed sequences."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, PackedSequence):
        return output.data
    for part in output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ():
        if part is not None:
            return first_tensor(part)
    raise UserError(f"the model returns {type(output).__name__}, expected a tensor or a tuple that starts with one")
