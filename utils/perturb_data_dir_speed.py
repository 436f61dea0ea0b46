#!/usr/bin/env python3
"""Speed perturbation (Ko et al. 2015): copy a Kaldi data dir at several speeds, which its features then have.

    utils/perturb_data_dir_speed.py data/train data/train_sp --factors "0.9 1.0 1.1"
"""

from __future__ import annotations

from pathlib import Path

from dirnet.asr.datadir import perturb_speed
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser

SLOWEST, FASTEST = 0.5, 2.0


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write OUT with the utterances of DIR at every speed; made of the same before, it is left alone."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--factors", default="0.9 1.0 1.1", help="speeds; 1.0: as recorded")
    arguments = parser.parse_args(argv)
    try:
        factors = sorted({round(float(factor), 4) for factor in arguments.factors.split()})
    except ValueError:
        factors = []
    if not factors or not all(SLOWEST <= factor <= FASTEST for factor in factors):
        raise UserError(f"--factors is {arguments.factors!r}, expected numbers from {SLOWEST} to {FASTEST}")
    if arguments.out.resolve() == arguments.folder.resolve():
        raise UserError(f"OUT is {arguments.out}, the folder to copy from; give another one")
    utterances = perturb_speed(arguments.folder, factors, arguments.out)
    print(f"{arguments.out}: {utterances} utterances, those of {arguments.folder} at {len(factors)} speeds")
    return 0


if __name__ == "__main__":
    main()
