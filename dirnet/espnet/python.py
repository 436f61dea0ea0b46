"""`dirnet-python`: the Python interpreter with DirNet's classes known to ESPnet, also in the processes it spawns.

Existing ESPnet recipes run unedited: `./run.sh --python dirnet-python`.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

from dirnet.errors import one_line_errors
from dirnet.espnet.versions import check_espnet

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
STARTUP = str(Path(__file__).resolve().parent / "sitecustomize")


def installed() -> bool:
    """Whether this package lies in site-packages, where every process finds it."""
    return PACKAGE_PARENT in (*site.getsitepackages(), site.getusersitepackages())


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """`inherited` with our start-up folder first in PYTHONPATH and, from a bare checkout, DirNet last."""
    path = [folder for folder in inherited.get("PYTHONPATH", "").split(os.pathsep) if folder and folder != STARTUP]
    if not installed() and PACKAGE_PARENT not in path:
        path.append(PACKAGE_PARENT)
    return {**inherited, "PYTHONPATH": os.pathsep.join([STARTUP, *path])}


@one_line_errors
def main() -> None:
    """Become the interpreter, with the arguments as they are; a missing or other ESPnet is told first."""
    check_espnet()
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment(os.environ))


if __name__ == "__main__":
    main()
