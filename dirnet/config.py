"""Settings: YAML files read into frozen dataclasses, an unknown key being an error, and `true | false` options."""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dirnet.errors import UserError, did_you_mean

Config = TypeVar("Config")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`; a missing file, bad syntax or another type is a `UserError`."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.safe_load(stream)
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"config {path} is no text file; give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(f"config {path} is not YAML ({' '.join(str(error).split())}); mend that line") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds a {type(content).__name__}, expected `key: value` lines")
    return content


def from_mapping(kind: type[Config], mapping: dict[str, Any], where: str) -> Config:
    """Build the frozen dataclass `kind` from `mapping`; `where` names the origin in errors.

    Unknown keys, missing keys and values of another type are `UserError`s; a dataclass validates its own
    ranges in `__post_init__`.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in mapping:
        if key not in fields:
            raise UserError(f"{where}: unknown key {key!r}; {did_you_mean(str(key), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in mapping:
            raise UserError(f"{where}: key {name!r} is missing; add it")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _checked(value, hints[key], f"{where}: {key}") for key, value in mapping.items()})


def check_choices(settings: Any) -> None:
    """A `UserError` for a field of a dataclass that is none of the values of its `Literal`: Python does not check."""
    for name, hint in typing.get_type_hints(type(settings)).items():
        if typing.get_origin(hint) is typing.Literal:
            _checked(getattr(settings, name), hint, name)


def load(kind: type[Config], path: str | Path) -> Config:
    """Read the YAML file `path` into the frozen dataclass `kind`."""
    try:
        return from_mapping(kind, read_yaml(path), str(path))
    except UserError as error:  # what a dataclass says of its ranges knows no file
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None


def boolean(text: str) -> bool:
    """`true` or `false` on a command line, as Kaldi's scripts write them; the `type` of an `argparse` option."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type `hint`; int is taken for float, a list for a tuple."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices = typing.get_args(hint) if union else (hint,)
    for choice in choices:
        plain = typing.get_origin(choice) or choice
        if plain is typing.Any or (plain is typing.Literal and value in typing.get_args(choice)):
            return value
        if plain is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)  # YAML 1.1 reads 1e-3 as a string
            except (OverflowError, ValueError):
                continue
            if not math.isfinite(number):
                raise UserError(f"{where} is {value!r}, expected a finite number")
            return number
        if plain is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if plain is int and isinstance(value, bool):
            continue
        if isinstance(plain, type) and isinstance(value, plain):
            return value
    raise UserError(f"{where} is {value!r}, expected {' or '.join(map(_name, choices))}")


def _name(choice: Any) -> str:
    """A type as a user knows it: its values for a `Literal`."""
    if typing.get_origin(choice) is typing.Literal:
        return " or ".join(map(str, typing.get_args(choice)))
    return "null" if choice is types.NoneType else getattr(choice, "__name__", str(choice))
