"""Kaldi `text` files (`utt-id token token ...`) and plain sentence files, with errors that name the line."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from dirnet.errors import UserError
from dirnet.files import atomic_write


def open_text(path: str | Path) -> IO[str]:
    """Open a UTF-8 text file, gunzipped on the fly when its name ends in `.gz`; a missing one is a `UserError`."""
    opened = gzip.open if str(path).endswith(".gz") else open
    try:
        return opened(path, "rt", encoding="utf-8-sig")  # without the mark that Windows puts in front
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of a text file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, expected a text file") from None


@contextlib.contextmanager
def whole_gzip(path: str | Path) -> Iterator[None]:
    """Damage that shows while `path` is unpacked inside the block is a `UserError`."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}); get it again") from None


def read_fields(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, tokens) of every line, blank ones included; broken text is a `UserError`."""
    number = 0
    with open_text(path) as stream, whole_gzip(path):
        try:
            for line in stream:
                number += 1
                yield number, line.split()
        except UnicodeDecodeError:
            raise UserError(f"{path}:{number + 1} is not UTF-8 text; convert the file") from None


def is_comment(first: str) -> bool:
    """Whether `first`, with which a lexicon's line begins, makes it a comment."""
    return first == "#" or first.startswith(";;;")


def read_transcripts(path: str | Path, allow_empty: bool = False) -> dict[str, list[str]]:
    """Utterance id -> tokens, in file order.

    A blank line, an id given twice, a file without lines and, unless `allow_empty` (hypotheses may be empty), an
    utterance without tokens are `UserError`s.
    """
    transcripts: dict[str, list[str]] = {}
    for number, fields in read_fields(path):
        if not fields:
            raise UserError(f"{path}:{number} is blank, expected `utt-id word word ...`; delete the line")
        utterance, *tokens = fields
        if utterance in transcripts:
            raise UserError(f"{path}:{number}: utterance {utterance} is there twice; keep one of the lines")
        if not tokens and not allow_empty:
            raise UserError(f"{path}:{number}: utterance {utterance} has an empty transcript; add its words or drop it")
        transcripts[utterance] = tokens
    if not transcripts:
        raise UserError(f"{path} is empty, expected lines `utt-id word word ...`")
    return transcripts


def write_transcripts(path: str | Path, transcripts: Mapping[str, Sequence[str]]) -> None:
    """Write `utt-id token token ...` lines in the order given, whole or not at all."""
    with atomic_write(path) as stream:
        for utterance, tokens in transcripts.items():
            stream.write(" ".join((utterance, *tokens)) + "\n")
