"""The paper's own figures, from `published.yaml`: table1, table2, table3, fig3."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from dirnet.config import read_yaml

WHAT = ("table1", "table2", "table3", "fig3")


@functools.lru_cache
def published(what: str) -> dict[str, Any]:
    """title, where, setting, metric, rows and remark of one of `WHAT`."""
    return read_yaml(Path(__file__).with_name("published.yaml"))[what]
