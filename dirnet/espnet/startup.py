"""Make DirNet's classes known to ESPnet in every process of this Python environment, or no longer.

enable   writes one file, dirnet_espnet.pth, into the environment's site-packages: ESPnet's own programs, notebooks and
         the workers that they start then find encoder `dirnet_rnn` and all others without `dirnet-python`
disable  removes that file
status   tells whether, by which file, which versions there are, and what a fresh interpreter really has registered
"""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from dirnet.errors import UserError, one_line_errors
from dirnet.espnet import versions
from dirnet.espnet.python import PACKAGE_PARENT, STARTUP, installed
from dirnet.espnet.registry import known
from dirnet.files import atomic_write
from dirnet.options import Parser

NAME = "dirnet_espnet.pth"
MARK = "# Written by `dirnet espnet enable`; `dirnet espnet disable` removes it."
HOOK = Path(__file__).resolve().parent / "hook.py"
# Python executes a .pth file line by line, at every start. So this is one line, and costs a start 0.1 ms: a finder that
# finds nothing, but runs hook.py when `espnet2` is first imported. Without our package it is silent: it may outlive it.
LINE = (
    "import sys; sys.meta_path.insert(0, type('_BeforeESPnet', (), {{'find_spec': "
    "lambda self, name, path=None, target=None, hook={hook!r}: "
    "exec('import os\\nif os.path.isfile(p): exec(compile(open(p).read(), p, \"exec\")); install()', "
    "{{'p': hook, '__name__': '_dirnet_espnet_hook'}}) if name == 'espnet2' else None}})())"
)
LOOK = """
import contextlib, importlib, json, os, sys
with contextlib.suppress(ImportError):
    import nltk
    nltk.download = lambda *_, **__: False  # what ESPnet's g2p_en would fetch
shown, sys.stdout = sys.stdout, open(os.devnull, "w")
found = {}
for task, registries in json.loads(sys.argv[1]).items():
    try:
        module = importlib.import_module("espnet2.tasks." + task)
    except ModuleNotFoundError as error:
        if error.name != "espnet2.tasks." + task:
            raise
        continue
    for registry, names in registries.items():
        if not hasattr(module, registry):
            continue
        choices = getattr(module, registry)
        classes = getattr(choices, "classes", choices)
        for name, place in names.items():
            kind = classes.get(name)
            same = kind is not None and f"{kind.__module__}:{kind.__qualname__}" == place
            found.setdefault(task, {})[f"{registry.removesuffix('_choices').removesuffix('_classes')} {name}"] = same
json.dump(found, shown)
"""


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run `enable`, `disable` or `status` for the environment of this interpreter."""
    parser = Parser(prog="dirnet espnet", description=__doc__)
    parser.add_argument("action", choices=("enable", "disable", "status"))
    action = parser.parse_args(argv).action
    path = Path(sysconfig.get_path("purelib")) / NAME
    print({"enable": enable, "disable": disable, "status": status}[action](path), flush=True)
    return 0


def content() -> str:
    """What the file holds; a checkout that is not installed also puts itself on the path."""
    folder = [] if installed() else [PACKAGE_PARENT]
    return "\n".join([MARK, *folder, LINE.format(hook=str(HOOK)), ""])


def ours(path: Path) -> bool:
    """Whether the file is there; a foreign file of that name is a `UserError`."""
    if not path.exists():
        return False
    if not path.read_text(encoding="utf-8").startswith(MARK):
        raise UserError(f"{path} was not written by `dirnet espnet enable`; move it away")
    return True


def enable(path: Path) -> str:
    """Write the file `path`; returns what was done."""
    versions.check_espnet()
    if ours(path) and path.read_text(encoding="utf-8") == content():
        return f"already enabled by {path}"
    try:
        with atomic_write(path) as stream:
            stream.write(content())
    except OSError as error:
        raise unwritable(path, error) from None
    return f"enabled by {path}: every ESPnet program of {sys.prefix} knows DirNet's classes"


def disable(path: Path) -> str:
    """Remove the file `path`; returns what was done."""
    if not ours(path):
        return f"not enabled: there is no {path}"
    try:
        path.unlink()
    except OSError as error:
        raise unwritable(path, error) from None
    return f"disabled: {path} removed"


def unwritable(path: Path, error: OSError) -> Exception:
    """The mistake behind a failed change of `path`; a full disk stays what it is."""
    if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
        return error
    return UserError(
        f"{path} cannot be changed ({os.strerror(error.errno)}); use dirnet-python, or an environment of your own"
    )


def status(path: Path) -> str:
    """Print and return the state; an ESPnet that is not supported is a `UserError` after the first line."""
    if ours(path):
        stale = "" if path.read_text(encoding="utf-8") == content() else ", for another DirNet: enable it again"
        print(f"enabled by {path}{stale}", flush=True)
    elif STARTUP in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        print(f"not enabled, but these processes run under dirnet-python (PYTHONPATH has {STARTUP})", flush=True)
    else:
        print("not enabled; `dirnet espnet enable`, or run programs with dirnet-python", flush=True)
    versions.check_espnet()
    print(f"Python {platform.python_version()}, ESPnet {versions.found()}: supported", flush=True)
    print("asking a fresh interpreter, which imports ESPnet (half a minute) ...", flush=True)
    lines = []
    for task, names in registered().items():
        held = [name for name, same in names.items() if same]
        lost = [name for name, same in names.items() if not same]
        lines.append(f"  {task}: {', '.join(held) or 'nothing'}{'; missing: ' + ', '.join(lost) if lost else ''}")
    return "\n".join(lines)


def registered() -> dict[str, dict[str, bool]]:
    """Task -> `registry name` -> whether a fresh interpreter, which we tell nothing, has our class there."""
    command = [sys.executable, "-c", LOOK, json.dumps(known())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"ESPnet cannot be imported: {done.stderr.strip().splitlines()[-1]}; install it again")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
