#!/usr/bin/env python3
"""Repair a Kaldi data dir: sort its tables, drop what is duplicate or incomplete, write spk2utt; says how many."""

from __future__ import annotations

import shutil
from pathlib import Path

from dirnet.asr.datadir import (
    BY_SPEAKER,
    BY_UTTERANCE,
    FROM_FEATURES,
    REQUIRED,
    SPEEDS,
    keep,
    read_lines,
    split_line,
    write_table,
)
from dirnet.asr.validation import VALUES, faults
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Repair DIR in place; the tables as they were are kept in DIR/.backup."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    folder = parser.parse_args(argv).folder
    for name in REQUIRED:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist; a data dir needs {', '.join(REQUIRED)}")
    if not faults(folder):
        print(f"{folder}: nothing to repair")
        return 0
    remarks: list[str] = []
    present = [name for name in (*BY_UTTERANCE, *BY_SPEAKER[1:]) if (folder / name).exists()]
    tables = {name: _lenient(folder / name, remarks) for name in present}
    given = [set(table) for name, table in tables.items() if name in (*REQUIRED, SPEEDS)]
    complete = set.intersection(*given)
    if not complete:
        raise UserError(f"{folder}: no utterance is in all of its tables; nothing was changed, compare their IDs")
    everyone = set().union(*(tables[name] for name in REQUIRED))
    backup = folder / ".backup"
    backup.mkdir(exist_ok=True)
    for name in (*tables, "spk2utt"):
        if (folder / name).exists():
            shutil.copy2(folder / name, backup / name)
    for name, table in tables.items():
        if name in FROM_FEATURES and (lacking := complete - table.keys()):  # utterances are new: Kaldi drops it, too
            (folder / name).unlink()
            remarks.append(f"{name}: removed, it lacks {len(lacking)} utterances; the features make it again")
        else:
            write_table(folder / name, table)
    keep(folder, complete)
    for remark in remarks:
        print(f"{folder}/{remark}")
    incomplete = len(everyone - complete)
    print(f"{folder}: {len(complete)} utterances kept, {incomplete} incomplete dropped; {backup} has the old tables")
    return 0


def _lenient(path: Path, remarks: list[str]) -> dict[str, str]:
    """The usable lines of a table, the first of each ID; counts of the others go to `remarks`."""
    table: dict[str, str] = {}
    duplicates = unusable = 0
    for line in read_lines(path):
        name, value = split_line(line)
        if not value or VALUES.get(path.name, lambda value: "")(value):
            unusable += 1
        elif name in table:
            duplicates += 1
        else:
            table[name] = value
    if unusable:
        remarks.append(f"{path.name}: {unusable} lines without a usable value dropped")
    if duplicates:
        remarks.append(f"{path.name}: {duplicates} duplicate lines dropped, the first of each kept")
    if list(table) != sorted(table):
        remarks.append(f"{path.name}: sorted")
    return table


if __name__ == "__main__":
    main()
