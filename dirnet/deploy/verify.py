"""Is an exported program whole, of this version, and does it still compute what it computed when it was exported?

    dirnet verify exp/dirnet_7.9x/encoder.pte

Checked are the sha256 and the seal in the `.json` beside it, the program's structure, its constants, that ExecuTorch
here knows its operators, and its outputs against the reference outputs stored at export. ExecuTorch may crash on a
damaged program, so it loads in a process of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dirnet.config import boolean
from dirnet.deploy import certificate
from dirnet.deploy.structure import read_structure
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser

LIMIT_S = 300  # for a program; the operators may have to be compiled first


def check_files(path: Path) -> None:
    """What can be told of `path` without ExecuTorch: certificate, sha256, structure; a `UserError` where it is bad."""
    content = certificate.read_program(path)
    report = certificate.read(path.with_suffix(".json"))
    if "reference" not in report:
        raise UserError(f"{path.with_suffix('.json')} holds no reference outputs; export the model again")
    read_structure(content, path)


def check_outputs(path: Path) -> str:
    """Load the program in this process and compare its outputs with the reference; one line about it."""
    from dirnet.deploy.program import Program  # here, as the process that looks at files needs no torch
    from dirnet.deploy.reference_outputs import compare

    reference, program = certificate.read(path.with_suffix(".json"))["reference"], Program(path)
    difference, limit = compare(program, reference)
    return (
        f"{path} is sound: {len(program.content)} bytes, backend {program.backend}, dirnet {program.dirnet_version}, "
        f"{program.dtype} outputs within {difference:.1e} of the reference (limit {limit:g})"
    )


def verify(paths: Sequence[Path]) -> list[str]:
    """A line about each program; the first that is not sound is a `UserError`, also where ExecuTorch crashes on it."""
    for path in paths:
        check_files(path)
    command = [sys.executable, "-m", "dirnet.deploy.verify", "--same_process", "true", *map(str, paths)]
    limit = LIMIT_S * len(paths)
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit)
        status, lines, said = ended.returncode, ended.stdout, ended.stderr.decode(errors="replace").strip()
    except subprocess.TimeoutExpired as late:
        status, lines, said = 1, late.stdout or b"", f"no end within {limit} s"
    sound = lines.decode(errors="replace").splitlines()
    if status == 0:
        return sound
    said = said.splitlines()[-1] if said else ""
    if status == 2 and ": error: " in said:
        raise UserError(said.partition(": error: ")[2])
    how = signal.Signals(-status).name if status < 0 else said or f"exit status {status}"
    culprit = paths[min(len(sound), len(paths) - 1)]
    raise UserError(f"{culprit} makes ExecuTorch fail ({how}): damaged or foreign; export it again")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Say a line about each program that is sound; the first that is not ends it with status 2."""
    parser = Parser(prog="dirnet verify", description=__doc__)
    parser.add_argument("programs", nargs="+", type=Path, metavar="PTE", help="exported programs; each has its .json")
    parser.add_argument("--same_process", type=boolean, default=False,
                        help="true: load them in this process, which a damaged one may crash")  # fmt: skip
    options = parser.parse_args(argv)
    if options.same_process:
        for path in options.programs:
            check_files(path)
            print(check_outputs(path), flush=True)  # at once: what comes before a crash is told
    else:
        print("\n".join(verify(options.programs)))
    return 0


if __name__ == "__main__":
    main()
