#!/usr/bin/env python3
"""Kaldi data dirs as they come, DIR/train, DIR/dev and DIR/test*, to data dirs of the recipe.

Audio paths become absolute (a relative one starts from its data dir or from DIR), transcripts and the words of
DIR/lexicon.txt, else of DIR/lexiconp.txt, become upper case. Without DIR/dev a tenth of the training speakers makes the
dev set.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from dirnet.asr.audio import AudioReader, is_pipe
from dirnet.asr.datadir import Utterance, read, read_lines, split_line, split_off, write_sets
from dirnet.asr.lexicon import is_marker
from dirnet.asr.transcripts import is_comment
from dirnet.asr.validation import faults
from dirnet.config import boolean
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.options import Parser

LEXICONS = ("lexicon.txt", "lexiconp.txt")


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Make OUT/train, OUT/dev, OUT/test*, OUT/test_sets and OUT/local/dict/lexicon.txt; a rerun changes nothing."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data_root", required=True, type=Path, help="folder of train/ and, if any, dev/ and test*/")
    parser.add_argument("--out", default="data", type=Path)
    parser.add_argument("--dev_fraction", type=float, default=0.1, help="of the speakers, where there is no dev/")
    parser.add_argument("--allow_pipe", type=boolean, default=False, help="true: accept commands in wav.scp")
    arguments = parser.parse_args(argv)
    root = arguments.data_root
    if not (root / "train" / "wav.scp").is_file():
        raise UserError(f"--data_root {root} holds no train/wav.scp; give the folder above the data dirs")
    if os.path.realpath(root) == os.path.realpath(arguments.out):
        raise UserError(f"--data_root {root} is the folder that the data dirs are made in; give another --workdir")
    names = ["train", "dev", *sorted(path.name for path in root.glob("test*") if path.is_dir())]
    for name in names:  # which stages take as words, in which JOB stands for the job's number
        if not re.fullmatch(r"[A-Za-z0-9._+=:@%~-]+", name) or "JOB" in re.split(r"[^A-Za-z0-9_]", name):
            raise UserError(f"{root / name} would be a test set; rename it: letters, digits, ._+=:@%~- and no word JOB")
    folders = {name: root / name for name in names if (root / name / "wav.scp").is_file()}
    for name in names:
        if name not in folders and (root / name).is_dir():
            print(f"{root / name} is left out: it holds no wav.scp")
    readers = {
        name: AudioReader(roots=(folder, root), allow_pipe=arguments.allow_pipe) for name, folder in folders.items()
    }
    found = [fault for name, folder in folders.items() for fault in faults(folder, readers[name], complete=False)]
    if found:
        print(*found, sep="\n", file=sys.stderr)
        raise UserError(f"{root} has {len(found)} faults, listed above; repair it, or utils/fix_data_dir.py on a copy")
    sets = {name: [_normal(utterance, readers[name]) for utterance in read(folders[name])] for name in folders}
    _check_disjoint(sets)
    if "dev" not in sets:
        train, dev, remark = split_off(sets["train"], arguments.dev_fraction)
        sets = {"train": train, "dev": dev} | {name: sets[name] for name in sets if name != "train"}
        print(remark)
    write_sets(arguments.out, sets)  # first: it refuses a folder with data dirs of somebody else
    lexicon = next((path for name in LEXICONS if (path := root / name).is_file()), None)
    copied = arguments.out / "local" / "dict" / "lexicon.txt"
    if lexicon:
        _copy_lexicon(lexicon, copied)
    else:
        copied.unlink(missing_ok=True)  # of a corpus that had one before
    return 0


def _normal(utterance: Utterance, reader: AudioReader) -> Utterance:
    audio = utterance.audio if is_pipe(utterance.audio) else os.path.abspath(reader.find(utterance.audio))
    words = (word if is_marker(word) else word.upper() for word in utterance.text.split())
    return replace(utterance, audio=audio, text=" ".join(words))


def _check_disjoint(sets: dict[str, list[Utterance]]) -> None:
    """An utterance in two sets is an error, a speaker in two sets a remark."""
    where: dict[str, str] = {}
    speakers: dict[str, set[str]] = {}
    for name, utterances in sets.items():
        for utterance in utterances:
            if where.setdefault(utterance.name, name) != name:
                raise UserError(f"utterance {utterance.name!r} is in {where[utterance.name]} and in {name}; remove one")
        own = {utterance.speaker for utterance in utterances}
        for other, theirs in speakers.items():
            if own & theirs:
                print(f"{len(own & theirs)} speakers are in {other} and in {name}: {name} is not speaker-independent")
        speakers[name] = own


def _copy_lexicon(source: Path, target: Path) -> None:
    """Copy the lines `WORD PHONE...`, words in upper case, without comments."""
    lines = []
    for number, line in enumerate(read_lines(source), 1):
        word, phones = split_line(line)
        if is_comment(word):
            continue
        if word and not phones:
            raise UserError(f"{source}:{number}: word {word!r} has no phones; complete or remove the line")
        if word:
            lines.append(f"{word.upper()} {' '.join(phones.split())}\n")
    text = "".join(dict.fromkeys(lines))
    if not (target.is_file() and target.read_text(encoding="utf-8") == text):
        with atomic_write(target) as stream:
            stream.write(text)


if __name__ == "__main__":
    main()
