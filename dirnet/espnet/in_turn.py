"""Run several programs of this package in one process, as importing ESPnet takes 12-17 s.

    echo "dirnet.espnet.compress --espnet exp/lm --size 4x --out exp/small" > LIST; python -m dirnet.espnet.in_turn LIST

A line of LIST is a module with a `main(argv)` and its arguments, quoted as for a shell. The first that fails ends the
rest, with its exit status.
"""

from __future__ import annotations

import importlib
import shlex
import sys

from dirnet.asr.datadir import read_lines
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run every line of the list."""
    parser = Parser(prog="python -m dirnet.espnet.in_turn", description=__doc__)
    parser.add_argument("list", metavar="LIST", help="file of modules with their arguments, one a line")
    for line in filter(str.strip, read_lines(parser.parse_args(argv).list)):
        try:
            name, *arguments = shlex.split(line)
        except ValueError as error:
            raise UserError(f"the line {line!r} is not written as for a shell ({error}); quote its words") from None
        if not name.startswith("dirnet."):
            raise UserError(f"{name!r} is no program of this package; a line begins with its module, as dirnet.X.Y")
        try:
            importlib.import_module(name).main(arguments)
        except SystemExit as ended:  # how every program of ours ends
            if ended.code:
                return int(ended.code)
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    main()
