"""What a user did wrong, told in one line.

A user's mistake is a `UserError`: the name, the value, what was expected, the next step. Programs end with
exit status 2 and no traceback; every other exception is a failure of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import functools
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from typing import IO


class UserError(ValueError):
    """A mistake in what the user gave; its text is one line: name, value, expectation, next step."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a message about the unknown `word`: the nearest of `known`, else `otherwise`, else all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise or f"expected one of {', '.join(known)}"


# What the system says of a path that a user gave: not a failure of ours.
PATH_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
INTERRUPTED = "interrupted; nothing half-written was kept, run it again to continue"


def one_line_interrupts() -> None:
    """From here on an unhandled Ctrl-C, as in the imports before `main`, is one line and no traceback."""
    hook = sys.excepthook

    def told(kind, error, trace) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(f"{os.path.basename(sys.argv[0])}: {INTERRUPTED}", file=sys.stderr)
        else:
            hook(kind, error, trace)

    sys.excepthook = told


def one_line_errors(main: Callable[..., int | None]) -> Callable[..., None]:
    """Decorate a program's `main`: its value is the exit status, 130 on Ctrl-C, 2 on what the user can mend.

    That is a `UserError`, a full disk, or a path that is not what it should be. One whose output nobody reads any more
    ends without a word, with 1.
    """

    @functools.wraps(main)
    def program(*args, **kwargs) -> None:
        name = os.path.basename(sys.argv[0])
        try:
            try:
                status = main(*args, **kwargs)
            except SystemExit as ended:  # of --help
                status = ended.code
            sys.stdout.flush()
            sys.exit(status)
        except UserError as error:
            print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print(f"{name}: {INTERRUPTED}", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            if not _is_closed(sys.stdout):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the end
            sys.exit(1)
        except OSError as error:
            where = error.filename or "the output"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                told = f"no space left while writing {where}; free some and run it again"
            elif error.filename and (isinstance(error, PATH_ERRORS) or error.errno == errno.EROFS):
                told = f"{where}: {error.strerror}; correct the path"
            else:
                raise
            print(f"{name}: error: {told}", file=sys.stderr)
            sys.exit(2)

    return program


def _is_closed(output: IO) -> bool:
    """Whether `output` is a pipe whose reader has ended, as `head` does."""
    try:
        watch = select.poll()
        watch.register(output.fileno(), 0)
    except io.UnsupportedOperation:
        return False
    return bool(watch.poll(0))
