"""Loops over single numbers as machine code: what would be thousands of small operators in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator: numba compiles `function` of numpy arrays and numbers at its first call (seconds), once a machine.

    The result is kept beside the source, or in the user's cache, and lets go of the interpreter while it runs.
    """

    @functools.cache
    def machine() -> Callable[..., None]:
        import numba  # where factors are solved for, not wherever a layer is

        options = {"nogil": True, "fastmath": {"contract"}}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written
            return numba.njit(**options)(function)

    @functools.wraps(function)
    def call(*arguments) -> None:
        machine()(*arguments)

    return call
