"""speechocean762 with most of its test speakers in training, for comparisons that want more than its 2.9 hours.

    python -m bench.read_speech --read SPEECHOCEAN762 --out CORPUS     # --more DIR...: of more training speakers
    cd egs/librispeech_dirnet; ./run.sh --corpus kaldi --data_root CORPUS --stop_stage 2 --workdir WORK

The official sets have 125 speakers each. Of those of the test set some stay, drawn with seed 0, and the others join the
training set; stage 0 of the recipe takes its development set from there. No speaker is in two sets.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

from dirnet.asr.audio import AudioReader
from dirnet.asr.datadir import Utterance, read, write_sets
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Make OUT/train and OUT/test."""
    parser = Parser(prog="python -m bench.read_speech", description=__doc__)
    parser.add_argument("--read", required=True, type=Path, help="speechocean762: train, test and audio")
    parser.add_argument("--more", type=Path, nargs="+", default=[], help="other data dirs for training")
    parser.add_argument("--test_speakers", type=int, default=30)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args(argv)
    test = _utterances(arguments.read / "test", arguments.read)
    speakers = sorted({utterance.speaker for utterance in test})
    if not 0 < arguments.test_speakers < len(speakers):
        raise UserError(
            f"--test_speakers is {arguments.test_speakers}, expected fewer than the {len(speakers)} that "
            f"{arguments.read / 'test'} has, and at least 1"
        )
    held = set(random.Random(0).sample(speakers, arguments.test_speakers))
    train = _utterances(arguments.read / "train", arguments.read)
    train += [utterance for utterance in test if utterance.speaker not in held]
    for folder in arguments.more:
        own, known = _utterances(folder, folder), {one.name for one in (*train, *test)}
        odd = [one.name for one in own if one.name in known or one.speaker in held]
        if odd:
            raise UserError(f"--more {folder}: utterance {odd[0]} is in the corpus already, or of a test speaker")
        train += own
    write_sets(arguments.out, {"train": train, "test": [one for one in test if one.speaker in held]})
    return 0


def _utterances(folder: Path, root: Path) -> list[Utterance]:
    """Of one data dir, audio paths absolute; relative ones start from it or from `root`."""
    reader = AudioReader(roots=(folder, root))
    return [replace(one, audio=os.path.abspath(reader.find(one.audio))) for one in read(folder)]


if __name__ == "__main__":
    main()
