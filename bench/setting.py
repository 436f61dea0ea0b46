"""What all results of a bench's folder were made with: another configuration under the same names would mix with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dirnet.errors import UserError
from dirnet.files import atomic_write, read_json


def check_setting(out: Path, setting: Mapping[str, Any]) -> None:
    """Keep `setting` in `out/setting.json`, what is new in it beside what is there; another value is a `UserError`."""
    path = out / "setting.json"
    kept, given = read_json(path) or {}, json.loads(json.dumps(setting))
    for name, value in given.items():
        if kept.get(name, value) != value:
            raise UserError(f"{path}: these results are of {name} {kept[name]!r}, not {value!r}; give another --out")
    with atomic_write(path) as stream:
        json.dump(kept | given, stream, indent=1)
