"""Files that are either whole or absent: write to a temporary name, then rename; a torn record counts as absent.

Logs of JSON lines grow instead: a last line that was torn counts as absent.

A temporary's name tells its process. What one that was killed left goes when its target is written again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dirnet.errors import UserError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary sibling of `path`; it takes the name `path` when the block ends without an error.

    Creates the parent folder. On any error, Ctrl-C and a full disk included, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_fresh_prefix(path))
    try:
        encoding = None if "b" in mode else "utf-8"
        with os.fdopen(descriptor, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        name_full_disk(error, path)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path, mark: str) -> Iterator[Path]:
    """Yield a temporary sibling folder that replaces the folder `path` when the block ends without an error.

    mark: the name of something that every such folder holds. One that is neither empty nor holds it was made by
    somebody else, and is a `UserError`. A link stays a link, to the new folder.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and any(path.iterdir()) and not (path / mark).exists():
        raise UserError(f"{path} would be replaced, but was made by something else: it holds no {mark}; give another "
                        "folder, or move it away")  # fmt: skip
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_fresh_prefix(path)))
    old = Path(f"{temporary}.old")
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, old)  # at once: what a killed process had half removed would hold no mark
        os.replace(temporary, path)
    except BaseException as error:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        name_full_disk(error, path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def check_place(path: str | Path, *, folder: bool = False) -> None:
    """A `UserError` where no file, or folder, can be made at `path`, a program's --out: told before the work."""
    if not os.fspath(path):  # of a variable that is not set; as a path it would be the folder one is in
        raise UserError(f"--out is empty, expected the {'folder' if folder else 'file'} to write; give its path")
    path = Path(path)
    if path.exists() and path.is_dir() != folder:
        told = "is a file; give the folder" if folder else "is a folder; give the file"
        raise UserError(f"--out {path} {told} to write")
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        raise UserError(f"--out {path} cannot be made, as {there} is no folder; give another path")
    if not os.access(there, os.W_OK):
        raise UserError(f"--out {path} cannot be written, {there} allows no writing; give another path")


def _fresh_prefix(path: Path) -> str:
    """How names of this process's temporaries of `path` begin; those of processes that are gone are removed."""
    prefix = f".{path.name}.{_here()}."
    for left in [entry for entry in path.parent.iterdir() if entry.name.startswith(prefix)]:
        pid, _, drawn = left.name.removeprefix(prefix).partition(".")
        if drawn and pid.isdecimal() and _is_gone(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
            with contextlib.suppress(OSError):
                left.unlink()
    return f"{prefix}{os.getpid()}."


@functools.cache
def _here() -> str:
    """This start of this machine and its process numbers: those of other nodes and containers mean other processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino:x}"
    except OSError:
        return secrets.token_hex(4)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:  # one that may not be signalled is another user's
        return isinstance(error, ProcessLookupError)
    return False


def name_full_disk(error: BaseException, path: str | Path) -> None:
    """Put `path` into the error of a full disk: a failed write does not know its file, only a failed open does."""
    if isinstance(error, OSError) and error.errno in FULL_DISK and error.filename is None:
        error.filename = os.fspath(path)


def read_json(path: str | Path) -> Any:
    """The JSON file `path`; None when it is absent or damaged, so that what it records is made again."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_log(path: str | Path) -> list[Any]:
    """The JSON values in the lines of `path`, none when it is absent; a last line that a killed writer tore counts not.

    A damaged line before it is a `UserError`.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path}:{number} is damaged, expected JSON; remove the line and run it again") from None
    return found


def append_log(path: str | Path, value: Any) -> None:
    """Append `value` as a line of JSON, one process at a time, and cut a torn last line before."""
    try:
        with open(path, "a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
            stream.write(json.dumps(value).encode() + b"\n")
    except OSError as error:
        name_full_disk(error, path)
        raise
