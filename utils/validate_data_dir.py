#!/usr/bin/env python3
"""List every fault of Kaldi data dirs with its file and line; exit status 1 when there is one.

Audio files are looked for, not read: their sampling rate and content are checked when features are made.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dirnet.asr.audio import add_audio_options, audio_reader
from dirnet.asr.datadir import read_table
from dirnet.asr.validation import faults
from dirnet.config import boolean
from dirnet.errors import one_line_errors
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Validate each DIR."""
    parser = Parser(description=__doc__)
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path)
    parser.add_argument("--check_audio", type=boolean, default=True, help="false: do not look for the audio files")
    add_audio_options(parser)
    arguments = parser.parse_args(argv)
    status = 0
    for folder in arguments.folders:
        found = faults(folder, audio_reader(arguments, folder) if arguments.check_audio else None)
        if found:
            status = 1
            print(*sorted(found, key=_by_line), sep="\n", file=sys.stderr)
            hint = f"utils/fix_data_dir.py {folder} sorts, and drops what is incomplete"
            print(f"{folder}: {len(found)} faults; {hint}", file=sys.stderr)
        else:
            speakers = set(read_table(folder / "utt2spk").values())
            print(f"{folder}: valid, {len(read_table(folder / 'wav.scp'))} utterances, {len(speakers)} speakers")
    return status


def _by_line(fault: str) -> tuple[str, int]:
    path, number, *_ = [*fault.split(":", 2), "", ""]
    return path, int(number) if number.isdigit() else 0


if __name__ == "__main__":
    main()
