"""A model in two files: `model.safetensors` (weights, as small as they are) and `model.json` (everything else)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors
from torch import Tensor, nn

from dirnet.config import from_mapping
from dirnet.errors import UserError
from dirnet.files import atomic_write
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.language import LanguageModel, LanguageModelConfig
from dirnet.nn.tensors import restore_state, take_tensors, to_tensors
from dirnet.provenance import commit

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
AGAIN = "copy or write the model again"
FORMAT, LANGUAGE_FORMAT, MODULE_FORMAT = "dirnet-acoustic-model/1", "dirnet-language-model/1", "dirnet-module/1"
PROGRAMS = {  # what reads each format
    FORMAT: "dirnet compress, export, decode and rtf",
    LANGUAGE_FORMAT: "python -m dirnet.deploy.language_program and python -m dirnet.espnet.perplexity",
    MODULE_FORMAT: "dirnet.load",
}


def save(model: AcousticModel | LanguageModel, folder: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write `model` into `folder`, as `write` does it; `extra` (JSON values) is kept in `model.json`."""
    kind = LANGUAGE_FORMAT if isinstance(model, LanguageModel) else FORMAT
    write(model, folder, kind, model.config.to_mapping(), extra)


def write(
    model: nn.Module, folder: str | Path, kind: str, config: dict[str, Any], extra: dict[str, Any] | None = None
) -> None:
    """Write the weights of `model`, and a description of format `kind` that tells of `config` and `extra`.

    Both files are written whole under temporary names first, so an interruption leaves the old model. One between the
    two renames leaves the new weights beside the old description, which `load` refuses: write the model again. A NaN
    or an infinity among the weights is a `UserError`.
    """
    tensors = stored_tensors(model)
    _refuse_not_finite(tensors, "the model to save")
    content = bytes_from_tensors(tensors)
    description = {
        "format": kind,
        "config": config,
        "config_sha256": config_sha256(config),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "commit": commit(),
        "versions": {"torch": torch.__version__, "safetensors": safetensors.__version__},
        "extra": extra or {},
    }
    text = json.dumps(description, indent=1, allow_nan=False)
    folder = Path(folder)
    with atomic_write(folder / DESCRIPTION) as stream, atomic_write(folder / WEIGHTS, "wb") as weights:
        stream.write(text + "\n")
        stream.flush()  # a disk that is full is told before the old weights go
        weights.write(content)


def load(folder: str | Path) -> AcousticModel:
    """The model in `folder`, in eval mode; anything missing, changed, unexpected or not finite is a `UserError`."""
    return _load(Path(folder), FORMAT, AcousticModel, AcousticModelConfig)


def load_language(folder: str | Path) -> LanguageModel:
    """The language model in `folder`, as `load` does it."""
    return _load(Path(folder), LANGUAGE_FORMAT, LanguageModel, LanguageModelConfig)


def _load(folder: Path, kind: str, model_class: type, config_class: type) -> Any:
    description, place = describe(folder, kind), folder / DESCRIPTION
    try:
        model = model_class(from_mapping(config_class, description["config"], str(place)))
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{place} describes no model ({' '.join(str(error).split())}); {AGAIN}") from None
    take(model, folder, description)
    return model.eval()


def take(model: nn.Module, folder: str | Path, description: dict[str, Any]) -> None:
    """Give `model` the weights in `folder`; such as `description` does not tell, or `model` has not: `UserError`."""
    where = Path(folder) / WEIGHTS
    content = _read(where)
    if len(content) != description["bytes"]:
        raise UserError(f"{where} has {len(content)} bytes, expected {description['bytes']}: truncated? {AGAIN}")
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise UserError(f"{where} differs from the sha256 in {DESCRIPTION}: damaged or mixed up; {AGAIN}")
    try:
        tensors = tensors_from_bytes(content)
    except SafetensorError as error:
        raise UserError(f"{where} is not a safetensors file ({error}); {AGAIN}") from None
    _refuse_not_finite(tensors, str(where))
    _take(model, tensors, str(where))


def describe(folder: str | Path, kind: str = FORMAT) -> dict[str, Any]:
    """The content of `model.json` in `folder`, of format `kind`: config, sha256, commit, versions, extra."""
    path = Path(folder) / DESCRIPTION
    content = _read(path)
    try:
        description = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); write the model again") from None
    if not isinstance(description, dict) or description.get("format") not in PROGRAMS:
        raise UserError(f"{path} is of no format known here, expected {kind}; write the model with this version")
    if (other := description["format"]) != kind:
        raise UserError(f"{path} is of format {other}, expected {kind}; it goes with {PROGRAMS[other]}")
    if not isinstance(description.get("extra", {}), dict):
        raise UserError(f"{path}: extra is no mapping: damaged or edited; {AGAIN}")
    missing = {"config", "bytes", "sha256"} - description.keys()
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}; write the model again")
    found = config_sha256(description["config"])
    if description.get("config_sha256", found) != found:  # older files have none
        raise UserError(f"{path}: config differs from its own sha256: damaged or edited; {AGAIN}")
    return description


def config_sha256(config: Any) -> str:
    """A sha256 of the `config` of a description, JSON values: CMVN, features, names, all that is no weight."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` as it is stored: coded matrices by `to_tensors`, everything else as in the state dict."""
    return _stored(model, _once(model.state_dict(keep_vars=True)))


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """`stored_tensors` with every name of a shared tensor: `model.load_state_dict` takes it like a state dict."""
    return _stored(model, model.state_dict(keep_vars=True))


def restored_state(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` with the names that the state dict of `model` has, coded matrices may be as they are stored.

    Stored tensors that do not fit are a `UserError`.
    """
    whole = dict(state)
    for name, matrix in _coded(model).items():
        try:
            restore_state(matrix, whole, f"{name}.")
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return whole


def _stored(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if empty := [name for name, tensor in tensors.items() if isinstance(tensor, Tensor) and tensor.is_meta]:
        raise UserError(f"{empty[0]} is on the device meta, which keeps no values; build the model on the CPU")
    for name, matrix in _coded(model).items():
        for key in matrix.state_dict():
            del tensors[f"{name}.{key}"]
        tensors.update({f"{name}.{key}": value for key, value in to_tensors(matrix).items()})
    places, kept = set(), {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        kept[name] = value.clone() if place in places else value  # safetensors refuses what shares memory
        places.add(place)
    return kept


def _once(state: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict in which a tensor that has several names has the first of them."""
    if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(f"the model keeps {strange[0]}, which is no tensor, in its state dict; it cannot be stored")
    first: dict[int, str] = {}
    return {name: tensor for name, tensor in state.items() if first.setdefault(id(tensor), name) == name}


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all stored tensors, shared ones once: the size of `model.safetensors` without its header."""
    coded = {module for module in model.modules() if isinstance(module, CodedMatrix)}
    packed = {id(tensor) for matrix in coded for tensor in matrix.state_dict(keep_vars=True).values()}
    plain = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values() if id(tensor) not in packed}
    return sum(matrix.stored_bytes() for matrix in coded) + sum(t.numel() * t.element_size() for t in plain.values())


def _take(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load `tensors` into `model`, every name and shape checked."""
    expected, coded = stored_tensors(model), _coded(model)
    own = {name: _pop(tensors, f"{name}.") for name in coded}
    for name in coded:
        _pop(expected, f"{name}.")
    for name in sorted(expected.keys() ^ tensors.keys()):
        kind = "lacks" if name in expected else "has an unexpected"
        raise UserError(f"{where} {kind} tensor {name}; it belongs to another model than {DESCRIPTION}")
    for name, matrix in coded.items():
        try:
            take_tensors(matrix, own[name])
        except UserError as error:
            raise UserError(f"{where}: {name}: {error}") from None
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype):
            found, wanted = ([*t.shape, t.dtype] for t in (tensor, expected[name]))
            raise UserError(f"{where}: tensor {name} is {found}, expected {wanted}")
    model.load_state_dict(tensors, strict=False)  # names were compared above; coded matrices are in


def _pop(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those that begin with `prefix`, without it, taken out of `tensors`."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _coded(model: nn.Module) -> dict[str, CodedMatrix]:
    return {name: module for name, module in model.named_modules() if isinstance(module, CodedMatrix)}


def _refuse_not_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{where}: tensor {name} holds NaN or infinity; go back to an earlier checkpoint")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        holding = f"give a folder that holds {WEIGHTS} and {DESCRIPTION}"
        raise UserError(f"{path} does not exist as a file; {holding}") from None
