"""Progress of loops that may take more than five seconds: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import threading
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


class Meter:
    """How far each of `total` named items is, and in which stage; they may be worked on at the same time.

    A bar on a terminal, else a line every `every_s` seconds. Use as a context manager.
    """

    def __init__(self, total: int, label: str, unit: str = "utt", every_s: float = 60, shown: bool = True):
        self._done: dict[str, float] = {}
        self._total, self._label, self._unit, self._every_s, self._shown = total, label, unit, every_s, shown
        self._told, self._lock, self._bar = time.monotonic(), threading.Lock(), None

    def __enter__(self) -> Meter:
        if self._shown and sys.stderr.isatty():
            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
            self._bar = tqdm(desc=self._label, total=self._total, bar_format=form, mininterval=0.5, leave=False)
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, name: str, stage: str, fraction: float) -> None:
        """Item `name` is in `stage`, and `fraction` of all its stages is done."""
        with self._lock:
            gained, self._done[name] = fraction - self._done.get(name, 0.0), fraction
            if self._bar is not None:
                self._bar.set_postfix_str(f"{name}: {stage}", refresh=False)
                self._bar.update(min(gained, self._total - self._bar.n))  # sums of fractions may round up
            elif self._shown and time.monotonic() - self._told >= self._every_s:
                self._told = time.monotonic()
                finished = sum(done >= 1 for done in self._done.values())
                print(f"{self._label}: {finished} of {self._total} {self._unit}, {name}: {stage}, "
                      f"{100 * fraction:.0f} %", file=sys.stderr, flush=True)  # fmt: skip
