"""ExecuTorch's Python runtime without the remarks its libraries print about processors and threads."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType


def portable_lib() -> ModuleType:
    """ExecuTorch's pybindings, imported at first use (3 s)."""
    with muted():
        from executorch.extension.pybindings import portable_lib

        portable_lib._threadpool_get_thread_count()  # makes the pool, which looks at the processor and talks
    return portable_lib


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Keep what native code writes to standard error off the terminal, unless the block fails: then show it."""
    sys.stderr.flush()
    # Some of it goes through Python's own sys.stderr, which need not be file 2. Never closed: loggers that are made in
    # the block keep it, and speak to the terminal afterwards.
    python = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    with tempfile.TemporaryFile() as remarks, contextlib.redirect_stderr(python):
        kept = os.dup(2)
        os.dup2(remarks.fileno(), 2)
        try:
            yield
        except BaseException:
            python.flush()
            remarks.seek(0)
            os.write(kept, remarks.read())
            raise
        finally:
            python.flush()
            os.dup2(kept, 2)
            os.close(kept)
