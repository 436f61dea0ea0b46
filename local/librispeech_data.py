#!/usr/bin/env python3
"""A LibriSpeech tree, whole or partial, to data dirs: train (all train-* parts there are), dev, test_clean, test_other.

Without a dev part about 5 % of train are split off by speaker. A test part that is missing is missing in
OUT/test_sets too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dirnet.asr.datadir import Utterance, read_lines, split_line, split_off, write_sets
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser
from dirnet.progress import progress

SETS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "dev": ("dev-clean", "dev-other"),
    "test_clean": ("test-clean",),
    "test_other": ("test-other",),
}
MOST_MISSING = 0.05


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Make the data dirs in OUT; a rerun changes nothing."""
    parser = Parser(description=__doc__)
    parser.add_argument("--corpus", required=True, type=Path, help="the folder LibriSpeech, which holds its parts")
    parser.add_argument("--out", default="data", type=Path)
    parser.add_argument("--dev_fraction", type=float, default=0.05, help="of the speakers, where there is no dev part")
    arguments = parser.parse_args(argv)
    corpus = arguments.corpus / "LibriSpeech" if (arguments.corpus / "LibriSpeech").is_dir() else arguments.corpus
    parts = {name: [part for part in SETS[name] if (corpus / part).is_dir()] for name in SETS}
    if not parts["train"]:
        raise UserError(f"--corpus {corpus} holds none of {', '.join(SETS['train'])}; give the folder LibriSpeech")
    absent = [part for name in SETS for part in SETS[name] if part not in parts[name]]
    if absent:
        print(f"{corpus} is partial, not there: {' '.join(absent)}")
    sets = {name: [utterance for part in parts[name] for utterance in read_part(corpus / part)] for name in SETS}
    if not sets["dev"]:
        sets["train"], sets["dev"], remark = split_off(sets["train"], arguments.dev_fraction)
        print(remark)
    write_sets(arguments.out, {name: utterances for name, utterances in sets.items() if utterances})
    return 0


def read_part(part: Path) -> list[Utterance]:
    """The utterances of one part, SPEAKER/CHAPTER/*.trans.txt with their flac files beside them.

    Transcripts without audio and audio without transcript are left out with a count; above 5 % they are an error.
    """
    transcripts = sorted(part.glob("*/*/*.trans.txt"))
    utterances: list[Utterance] = []
    missing: list[str] = []
    for path in progress(transcripts, len(transcripts), f"reading {part}", unit="chapters"):
        utterances += _read_chapter(path, missing)
    if len(missing) > MOST_MISSING * (len(utterances) + len(missing)) or not utterances:
        first = f", the first {missing[0]}" if missing else ""
        raise UserError(f"{part}: {len(missing)} utterances lack audio or transcript{first}; extract the part again")
    if missing:
        print(f"{part}: {len(missing)} utterances lack audio or transcript and are left out, the first {missing[0]}")
    return utterances


def _read_chapter(path: Path, missing: list[str]) -> Iterator[Utterance]:
    folder = path.parent
    flacs = {name.removesuffix(".flac") for name in os.listdir(folder) if name.endswith(".flac")}
    for number, line in enumerate(read_lines(path), 1):
        name, text = split_line(line)
        if not text:
            raise UserError(f"{path}:{number}: {name!r} has an empty transcript; extract the part again")
        if name in flacs:
            flacs.remove(name)
            audio = os.path.abspath(folder / f"{name}.flac")
            yield Utterance(name, audio, " ".join(text.upper().split()), name.split("-")[0])
        else:
            missing.append(f"{folder / name}.flac")
    missing += sorted(str(folder / name) for name in flacs)


if __name__ == "__main__":
    main()
