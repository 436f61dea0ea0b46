"""The ESPnet versions that DirNet works with. Standard library only: start-up and errors must not wait for ESPnet."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import sys
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType

from dirnet.errors import UserError

SUPPORTED = {(3, 11): "202511", (3, 12): "202611"}  # Python -> ESPnet; the pairs of setup.cfg, which are tested


def supported() -> str:
    """The supported pairs as a user reads them."""
    return ", ".join(f"ESPnet {espnet} on Python {major}.{minor}" for (major, minor), espnet in SUPPORTED.items())


@functools.cache
def found() -> str | None:
    """The version of the installed ESPnet, from its metadata; None without one."""
    try:
        return metadata.version("espnet")
    except metadata.PackageNotFoundError:
        return None


def check_espnet() -> None:
    """A `UserError` unless this Python has the ESPnet that is supported on it."""
    wanted, here = SUPPORTED.get(sys.version_info[:2]), f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    if wanted is None:
        raise UserError(f"{here} is not supported, expected {supported()}; make an environment with one of them")
    if found() != wanted:
        there = f"ESPnet is {found()}" if found() else "ESPnet is not installed"
        raise UserError(f"{there}, expected {supported()}; here: pip install espnet=={wanted}")


def imported(name: str) -> ModuleType:
    """The module `name`, which imports ESPnet: 12-17 s, its remarks dropped. Another version is a `UserError`."""
    check_espnet()
    with no_downloads(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module(name)


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Without `nltk.download`: g2p_en, which ESPnet imports with its tasks, fetches dictionaries that nobody reads."""
    try:
        import nltk
    except ImportError:  # then there is no g2p_en either
        yield
        return
    kept, nltk.download = nltk.download, lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = kept
