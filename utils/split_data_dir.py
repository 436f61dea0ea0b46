#!/usr/bin/env python3
"""Cut a Kaldi data dir in N parts of consecutive utterances, DIR/splitN/1 ... DIR/splitN/N, for parallel jobs."""

from __future__ import annotations

from pathlib import Path

from dirnet.asr.datadir import split
from dirnet.errors import one_line_errors
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Split DIR in N."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("parts", metavar="N", type=int)
    arguments = parser.parse_args(argv)
    parts = split(arguments.folder, arguments.parts)
    print(f"{arguments.folder}: split in {len(parts)}, {parts[0]} ... {parts[-1]}")
    return 0


if __name__ == "__main__":
    main()
