"""Progress of loops that may take more than five seconds: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int, label: str, unit: str = "utt", every_s: float = 60) -> Iterator[Item]:
    """Yield `items`, of which there are `total`, and show on standard error how many are done."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, unit=unit, mininterval=0.5, leave=False)
        return
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told >= every_s:
            told = time.monotonic()
            print(f"{label}: {done} of {total} {unit}", file=sys.stderr, flush=True)
        yield item
