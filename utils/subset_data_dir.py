#!/usr/bin/env python3
"""Copy some utterances of a Kaldi data dir to another one: the first N, N spread over it, a list, or speakers."""

from __future__ import annotations

from pathlib import Path

from dirnet.asr.datadir import read_lines, read_table, subset
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write the chosen utterances of DIR to OUT."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--first", metavar="N", type=int, help="the first N utterances")
    choice.add_argument("--spread", metavar="N", type=int, help="N utterances at equal distances")
    choice.add_argument("--utt_list", metavar="FILE", help="the utterances that FILE names, one a line")
    choice.add_argument("--spk_list", metavar="FILE", help="the utterances of the speakers that FILE names, one a line")
    arguments = parser.parse_args(argv)
    speakers = read_table(arguments.folder / "utt2spk")
    names = sorted(speakers)
    number = arguments.first if arguments.first is not None else arguments.spread
    if number is not None and not 1 <= number <= len(names):
        raise UserError(f"{number} utterances are asked for, expected 1 to {len(names)}, all of {arguments.folder}")
    if arguments.first is not None:
        chosen = names[:number]
    elif arguments.spread is not None:
        chosen = [names[index * len(names) // number] for index in range(number)]
    else:
        chosen = _listed(arguments.utt_list or arguments.spk_list, names, None if arguments.utt_list else speakers)
    if arguments.out.resolve() == arguments.folder.resolve():
        raise UserError(f"OUT is {arguments.out}, the folder to copy from; give another one")
    subset(arguments.folder, chosen, arguments.out)
    print(f"{arguments.out}: {len(chosen)} of {len(names)} utterances of {arguments.folder}")
    return 0


def _listed(path: str, names: list[str], speakers: dict[str, str] | None) -> list[str]:
    """The utterances that the lines of `path` name, by speaker where `speakers` is given."""
    listed = [line.split()[0] for line in read_lines(path) if line.strip()]
    known = set(names) if speakers is None else set(speakers.values())
    unknown = [name for name in listed if name not in known]
    if unknown or not listed:
        raise UserError(f"{path} names {unknown[0]!r}, which is not there" if unknown else f"{path} is empty")
    return [name for name in names if (name if speakers is None else speakers[name]) in set(listed)]


if __name__ == "__main__":
    main()
