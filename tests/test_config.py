"""Typed YAML configs: every mistake is one sentence that names file, key and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from dirnet import config
from dirnet.errors import UserError


@dataclass(frozen=True)
class Beam:
    beam: float
    max_active: int = 3000
    mode: Literal["fast", "exact"] = "fast"
    sizes: tuple = ()
    label: str | None = None


def write(tmp_path, text):
    path = tmp_path / "decode.yaml"
    path.write_text(text)
    return path


def test_values_are_read_and_converted(tmp_path):
    read = config.load(Beam, write(tmp_path, "beam: 12\nsizes: [1, 2]\nlabel: null\n"))
    assert read == Beam(beam=12.0, sizes=(1, 2)) and isinstance(read.beam, float)
    assert config.load(Beam, write(tmp_path, "beam: 1e-3")).beam == 1e-3


@pytest.mark.parametrize(
    "text, message",
    [
        ("beam: 1\nmax_activ: 3", "unknown key 'max_activ'; did you mean 'max_active'?"),
        ("max_active: 3", "key 'beam' is missing"),
        ("beam: wide", "beam is 'wide', expected float"),
        ("beam: .inf", "beam is inf, expected a finite number"),
        ("beam: 1e999", "beam is '1e999', expected a finite number"),
        ("beam: 1\nmax_active: true", "max_active is True, expected int"),
        ("beam: 1\nmode: slow", "mode is 'slow', expected fast or exact"),
        ("- 1\n- 2", "holds a list"),
        ("beam: [1", "is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match="decode.yaml") as error:
        config.load(Beam, write(tmp_path, text))
    assert message in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        config.load(Beam, tmp_path / "none.yaml")
