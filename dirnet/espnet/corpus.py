"""What ESPnet reads of a set: features, transcripts in tokens and shapes, of the utterances that CTC can use."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dirnet.asr.ark import Matrices
from dirnet.asr.datadir import read_lines, read_table, split_line
from dirnet.asr.tokens import type_of
from dirnet.errors import UserError
from dirnet.files import atomic_write


@dataclass(frozen=True)
class TrainingSet:
    """The files of one set, and why each utterance left out was left out."""

    feats: Path
    text: Path
    shape: Path
    utterances: int
    skipped: dict[str, str]


def prepare(
    data: Path,
    dump: Path,
    out: Path,
    phones: Sequence[str],
    feature_size: int,
    frame_stride: int,
    max_frames: int,
    max_skipped: float = 0.05,
    transcripts_name: str | None = None,
) -> TrainingSet:
    """Make `out/text` and `out/shape` from `data/text_phones`, `data/utt2num_frames` and `dump/feats.scp`.

    phones: the inventory without the blank; of another type of tokens it reads `data/text_chars`, and so on, or the
    file that `transcripts_name` tells.
    An utterance is left out when it has no features or no phones, is longer than `max_frames`, or has fewer frames
    after the stride than CTC needs. More than the fraction `max_skipped`, or a phone outside
    `phones`, is a `UserError`.
    """
    source = data / (transcripts_name or f"text_{type_of(phones).units}")
    features = Matrices(dump / "feats.scp")
    features.check_archives()  # ESPnet would fail in the middle of an epoch
    frames = read_table(data / "utt2num_frames")
    transcripts = dict(map(split_line, read_lines(source)))
    known = set(phones)
    text, shapes, skipped = [], [], {}
    for name in sorted(transcripts):
        sequence = transcripts[name].split()
        unknown = next((phone for phone in sequence if phone not in known), None)
        if unknown is not None:
            raise UserError(f"{source}: {name} has {unknown!r}, not in the token list; make the lexicon")
        length = _whole(frames[name], name) if name in features and name in frames else None
        reason = _unusable(sequence, length, frame_stride, max_frames)
        if reason:
            skipped[name] = reason
            continue
        text.append(f"{name} {' '.join(sequence)}\n")
        shapes.append(f"{name} {length},{feature_size}\n")
    if len(skipped) > max_skipped * len(transcripts) or not text:
        name, reason = next(iter(skipped.items()), ("none", "there is no utterance"))
        raise UserError(
            f"{data}: {len(skipped)} of {len(transcripts)} utterances cannot train (first: {name}: {reason}), "
            f"expected at most {max_skipped:.0%}; check audio and transcripts"
        )
    for name, lines in (("text", text), ("shape", shapes)):
        with atomic_write(out / name) as stream:  # file by file: all processes of one training write the same
            stream.write("".join(lines))
    return TrainingSet(dump / "feats.scp", out / "text", out / "shape", len(text), skipped)


def ctc_frames(sequence: Sequence[str]) -> int:
    """The fewest frames in which CTC can say `sequence`: one a phone, and a blank between equal ones."""
    return len(sequence) + sum(one == other for one, other in itertools.pairwise(sequence))


def _unusable(sequence: Sequence[str], frames: int | None, stride: int, max_frames: int) -> str | None:
    if frames is None:
        return "it has no features"
    if not sequence:
        return "its transcript is empty"
    if frames > max_frames:
        return f"{frames} frames, more than {max_frames}"
    steps, needed = -(-frames // stride), ctc_frames(sequence)
    return f"{steps} steps for tokens that need {needed}" if steps < needed else None


def _whole(count: str, name: str) -> int:
    if not count.isdecimal():
        raise UserError(f"utt2num_frames: {name} has {count!r}, expected a whole number; make the features again")
    return int(count)
