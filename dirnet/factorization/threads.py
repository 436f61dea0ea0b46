"""One core for one matrix.

The sweeps are many small products, each waiting for the one before. A second thread gains next to nothing on an idle
machine and costs a factor of ten on a busy one; and sums that are split differently would differ in their last bits.
To use more cores, solve the groups of a model in as many threads (`compression.parallel`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread; afterwards on as many as before. Also a decorator: `@one_thread()`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
