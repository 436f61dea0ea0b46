"""Groups of matrices worked on at the same time, to the same bits as one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from dirnet.errors import UserError
from dirnet.factorization.threads import one_thread

Map = Callable[..., Iterator[Any]]


@contextmanager
def workers(jobs: int) -> Iterator[Map]:
    """A `map` that keeps the order and runs `jobs` calls at a time, each computing on one core.

    Threads: torch lets go of the interpreter inside its operators, and these are large here. jobs < 1 is a `UserError`.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise UserError(f"nj is {jobs!r}, expected 1 or more groups at a time")
    with one_thread():
        if jobs == 1:
            yield map
            return
        # A fresh thread has as many threads for torch as the machine has cores until it is told otherwise.
        with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
