"""Runs of `run.sh`, and what earlier stages leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "egs" / "librispeech_dirnet"


def run(*options, recipe: str = RECIPE.name, **variables) -> subprocess.CompletedProcess:
    """`./run.sh OPTIONS` in a recipe's folder with this interpreter; standard error goes with standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = ["./run.sh", "--python", sys.executable, *map(str, options)]
    folder = RECIPE.parent / recipe
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def left(work: Path, *files: str) -> None:
    """Files as earlier stages would have left them in the work folder, empty but for the list of test sets."""
    for name in files:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("test\n" if name == "data/test_sets" else "")
