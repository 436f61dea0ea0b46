"""The `.json` beside a program: what `export` vouches for, sealed, so that a changed byte of it is noticed too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dirnet.errors import UserError
from dirnet.files import atomic_write


def seal(report: Mapping[str, Any]) -> str:
    """The text of the file for `report`, plain JSON values: its last entry, `seal`, is the sha256 of all the others."""
    content = {name: value for name, value in report.items() if name != "seal"}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps(content | {"seal": digest}, indent=1) + "\n"


def write(path: Path, content: bytes, report: Mapping[str, Any]) -> None:
    """Write the program `content` to `path` and its `report` to the `.json` beside it, both whole or not at all."""
    with atomic_write(path, "wb") as program, atomic_write(path.with_suffix(".json")) as beside:
        program.write(content)
        beside.write(seal(report))


def found(path: Path) -> dict[str, Any]:
    """The report of the program at `path`; empty where either is missing, damaged or edited and wants writing again."""
    try:
        read_program(path)
        return read(path.with_suffix(".json"))
    except (OSError, UserError):
        return {}


def read(path: str | Path) -> dict[str, Any]:
    """The report in the file `path`; missing, damaged, edited or without a seal (of an older version): `UserError`."""
    path = Path(path)
    try:
        content = path.read_bytes()
        report = json.loads(content)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is not there; copy it together with the program, or export again") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON, expected what export wrote; copy it again or export again") from None
    if not isinstance(report, dict) or "seal" not in report:
        raise UserError(f"{path} has no seal, as an older version wrote it; export the model again")
    if content != seal(report).encode():
        raise UserError(f"{path} differs from its own seal: damaged or edited; copy it again or export again")
    return report


def read_program(path: Path) -> bytes:
    """The bytes of the program at `path`, compared with the sha256 that `export` wrote beside it; no seal is needed."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a program; give its encoder.pte")
    beside = path.with_suffix(".json")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is not there; write it with `dirnet export --model FOLDER`") from None
    try:
        expected = json.loads(beside.read_text(encoding="utf-8"))["sha256"]
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{beside} with the sha256 of {path.name} is not there; copy both, or export again") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{beside} does not tell the sha256 of {path.name}; export the model again") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"{path} differs from the sha256 in {beside.name}: damaged or mixed up; export it again")
    return content
