"""What is wrong with a Kaldi data dir, every fault with its file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from dirnet.asr.audio import AudioReader, is_pipe
from dirnet.asr.datadir import BY_SPEAKER, BY_UTTERANCE, REQUIRED, read_lines, spk2utt, split_line
from dirnet.errors import UserError

Table = dict[str, tuple[int, str]]  # ID -> (line number, value)


def _number(pattern: str, expected: str) -> Callable[[str], str]:
    return lambda value: "" if re.fullmatch(pattern, value) and float(value) > 0 else f"{value!r}, expected {expected}"


def _speaker(value: str) -> str:
    return f"{value!r} has {len(value.split())} words, expected one speaker" if len(value.split()) > 1 else ""


VALUES: dict[str, Callable[[str], str]] = {  # what is wrong with a value, or nothing
    "utt2spk": _speaker,
    "utt2dur": _number(r"\d+(\.\d*)?", "seconds above 0"),
    "utt2speed": _number(r"\d+(\.\d*)?", "a factor above 0"),
    "utt2num_frames": _number(r"\d+", "a whole number above 0"),
    "spk2gender": lambda value: "" if value in ("m", "f") else f"{value!r}, expected m or f",
}


def faults(folder: str | Path, reader: AudioReader | None = None, complete: bool = True) -> list[str]:
    """Every fault of the data dir `folder`, as `FILE:LINE: what is wrong`; an empty list when it is sound.

    With a `reader` each audio file must exist, and be no command unless the reader allows those. Without `complete`
    only the three tables are looked at that a corpus must bring; the others are made from them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is not a folder"]
    found: list[str] = []
    tables: dict[str, Table] = {}
    for name in (*BY_UTTERANCE, *BY_SPEAKER) if complete else REQUIRED:
        if (folder / name).is_file():
            tables[name] = _read(folder / name, found)
        elif name in (*REQUIRED, "spk2utt"):
            found.append(f"{folder / name} does not exist")
    if (folder / "segments").exists():
        found.append(f"{folder / 'segments'} is not supported; cut the recordings, one file an utterance")
    if "utt2spk" in tables:
        found += _membership(folder, tables)
    if reader is not None and "wav.scp" in tables:
        found += _audio(folder, tables["wav.scp"], reader)
    return found


def _read(path: Path, found: list[str]) -> Table:
    """The table `path`; faults of its lines are appended to `found`."""
    try:
        lines = read_lines(path)
    except UserError as error:
        found.append(str(error))
        return {}
    if not lines:
        found.append(f"{path} is empty")
    elif not path.read_bytes().endswith(b"\n"):
        found.append(f"{path}:{len(lines)}: the last line has no end; the file may be cut short")
    table: Table = {}
    previous = ""
    for number, line in enumerate(lines, 1):
        found += [f"{path}:{number}: {fault}" for fault in _line(path.name, line, table, previous)]
        name, value = split_line(line)
        if name:
            table.setdefault(name, (number, value))
            previous = name
    return table


def _line(table_name: str, line: str, table: Table, previous: str) -> Iterator[str]:
    """What is wrong with one line of the table, given the lines before it."""
    name, value = split_line(line)
    if not name:
        yield "the line is empty"
        return
    if line.endswith("\r"):
        yield f"{name!r} ends in a carriage return; convert the file with dos2unix"
    elif value and line != line.strip():
        yield f"{name!r} has blanks before or after it"
    if name in table:
        yield f"duplicate: {name!r} stands in line {table[name][0]} already"
    elif name < previous:
        yield f"not sorted: {name!r} comes after {previous!r}; sort with LC_ALL=C"
    if not value:
        yield f"{name!r} has {'an empty transcript' if table_name == 'text' else 'no value, expected 2 columns'}"
    elif wrong := VALUES.get(table_name, lambda value: "")(value):
        yield f"{name!r} is {wrong}"


def _membership(folder: Path, tables: dict[str, Table]) -> Iterator[str]:
    """Utterances and speakers that are in one table and not in another."""
    known = tables["utt2spk"]
    what = {"wav.scp": "audio", "text": "transcript", "utt2spk": "speaker"}
    for table_name in BY_UTTERANCE:
        if table_name == "utt2spk" or table_name not in tables:
            continue
        table = tables[table_name]
        for name in known.keys() - table.keys():
            missing = what.get(table_name, "entry")
            yield f"{folder / 'utt2spk'}:{known[name][0]}: utterance {name!r} has no {missing} in {table_name}"
        for name in table.keys() - known.keys():
            yield f"{folder / table_name}:{table[name][0]}: utterance {name!r} has no speaker in utt2spk"
    if "spk2utt" in tables:
        speakers = spk2utt({name: speaker for name, (_, speaker) in known.items()})
        for speaker, (number, names) in tables["spk2utt"].items():
            if sorted(names.split()) != speakers.get(speaker, "").split():
                yield f"{folder / 'spk2utt'}:{number}: speaker {speaker!r} has other utterances in utt2spk"
        for speaker in speakers.keys() - tables["spk2utt"].keys():
            first = speakers[speaker].split()[0]
            yield f"{folder / 'utt2spk'}:{known[first][0]}: speaker {speaker!r} is missing in spk2utt"


def _audio(folder: Path, table: Table, reader: AudioReader) -> Iterator[str]:
    for name, (number, location) in table.items():
        where = f"{folder / 'wav.scp'}:{number}: utterance {name!r}:"
        if is_pipe(location):
            if not reader.allow_pipe:
                yield f"{where} the entry is a command, `{location}`; give --allow_pipe true if you trust it"
        elif location:
            try:
                reader.find(location)
            except UserError as error:
                yield f"{where} {error}"
