"""Kaldi data dirs: `wav.scp text utt2spk spk2utt` and what features add, `utt2num_frames utt2dur`.

`utt2speed`, where there is one, says by which factor an utterance is to be played faster than its audio; ours, as Kaldi
writes a command for sox into `wav.scp` instead.

Every table has one entry a line, `ID VALUE`, sorted by ID in byte order (as `LC_ALL=C sort` does).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dirnet.errors import UserError
from dirnet.files import atomic_folder, atomic_write, read_json

REQUIRED = ("wav.scp", "text", "utt2spk")
SPEEDS = "utt2speed"
FROM_FEATURES = ("utt2dur", "utt2num_frames")
BY_UTTERANCE = (*REQUIRED, SPEEDS, *FROM_FEATURES)
BY_SPEAKER = ("spk2utt", "spk2gender", "spk2age")
# What a folder was made from, so that making it again is recognised; one without it is not ours to replace.
ORIGIN = ".origin.json"


@dataclass(frozen=True)
class Utterance:
    """One line of each table; `audio` is a path or a command ending in `|`."""

    name: str
    audio: str
    text: str
    speaker: str


def read_table(path: str | Path) -> dict[str, str]:
    """The lines `ID VALUE` of the file `path` in file order; a line without value or an ID given twice is an error."""
    table: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        name, value = split_line(line)
        if not value:
            raise UserError(f"{path}:{number}: expected `ID VALUE`, found {line!r}; complete or remove the line")
        if name in table:
            raise UserError(f"{path}:{number}: {name!r} stands there twice; remove one of the lines")
        table[name] = value
    return table


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file without their ends and the mark that Windows puts in front.

    A missing file or another encoding is a `UserError`.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")  # read_text would hide carriage returns
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it, or correct the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); convert it with iconv") from None
    return lines if lines[-1] else lines[:-1]


def split_line(line: str) -> tuple[str, str]:
    """The ID and the value of a table's line, blanks around them removed; either may be empty."""
    name, _, value = line.strip().replace("\t", " ").partition(" ")
    return name, value.strip()


def write_table(path: str | Path, table: dict[str, object]) -> None:
    """Write `ID VALUE` lines, sorted."""
    with atomic_write(path) as stream:
        stream.writelines(f"{name} {table[name]}\n" for name in sorted(table))


def spk2utt(utt2spk: dict[str, str]) -> dict[str, str]:
    """The speakers and their utterances, separated by blanks."""
    utterances = defaultdict(list)
    for name in sorted(utt2spk):
        utterances[utt2spk[name]].append(name)
    return {speaker: " ".join(names) for speaker, names in utterances.items()}


def read(folder: str | Path) -> list[Utterance]:
    """The utterances of a data dir; every utterance of `utt2spk` must be in the other tables, and none else."""
    folder = Path(folder)
    audio, text, speakers = (read_table(folder / name) for name in REQUIRED)
    for other, table in (("wav.scp", audio), ("text", text)):
        odd = sorted(table.keys() ^ speakers.keys())
        if odd:
            raise UserError(
                f"{folder}: {len(odd)} utterances are in only one of {other} and utt2spk, the first {odd[0]!r}; "
                f"run utils/fix_data_dir.py {folder}"
            )
    return [Utterance(name, audio[name], text[name], speakers[name]) for name in sorted(speakers)]


def write(folder: str | Path, utterances: Iterable[Utterance]) -> bool:
    """Make the data dir `folder` of `utterances`, whole or not at all; False when it was made of the same before.

    What later steps changed in it (features drop unusable utterances) stays as it is in that case.
    """
    folder, utterances = Path(folder), sorted(utterances, key=lambda utterance: utterance.name)
    if not utterances:
        raise UserError(f"no utterance is left for {folder}; check the corpus")
    origin = {"utterances": fingerprint(utterances)}
    if all((folder / name).is_file() for name in (*REQUIRED, "spk2utt")) and read_json(folder / ORIGIN) == origin:
        return False
    speakers = {utterance.name: utterance.speaker for utterance in utterances}
    with atomic_folder(folder, ORIGIN) as temporary:
        write_table(temporary / "wav.scp", {utterance.name: utterance.audio for utterance in utterances})
        write_table(temporary / "text", {utterance.name: utterance.text for utterance in utterances})
        write_table(temporary / "utt2spk", speakers)
        write_table(temporary / "spk2utt", spk2utt(speakers))
        with atomic_write(temporary / ORIGIN) as stream:
            json.dump(origin, stream)
    return True


def write_sets(out: str | Path, sets: dict[str, list[Utterance]]) -> None:
    """Make `out/SET` for every set and `out/test_sets`, the sets to score, one name a line; says what is new."""
    out = Path(out)
    for name, utterances in sets.items():
        made = write(out / name, utterances)
        speakers = len({utterance.speaker for utterance in utterances})
        print(f"{out / name}: {len(utterances)} utterances, {speakers} speakers{'' if made else ' (already done)'}")
    tests = [name for name in sets if name.startswith("test")]
    with atomic_write(out / "test_sets") as stream:
        stream.writelines(f"{name}\n" for name in tests)
    if not tests:
        print(f"{out}: the corpus has no test set; train, dev and test would not be independent, so none is made up")


def split_off(utterances: list[Utterance], fraction: float) -> tuple[list[Utterance], list[Utterance], str]:
    """Split into (rest, a `fraction` of the speakers, remark for the user); which speakers depends on their names only.

    At least one speaker is taken. If that is more than the fraction it is the one who says least; a corpus of a single
    speaker is split by utterance. A `fraction` that leaves nothing on one side is a `UserError`.
    """
    if not 0 < fraction < 1:
        raise UserError(f"--dev_fraction is {fraction}, expected a part of the speakers, such as 0.1")
    by_speaker = defaultdict(list)
    for utterance in utterances:
        by_speaker[utterance.speaker].append(utterance)
    if len(by_speaker) == 1:
        chosen = {utterance.name for utterance in _shuffled(utterances, fraction)}
        remark = "the corpus has one speaker: the dev set is split off by utterance and is not speaker-independent"
        return (*_partition(utterances, lambda utterance: utterance.name in chosen), remark)
    if fraction * len(by_speaker) < 1:
        least = min(sorted(by_speaker), key=lambda speaker: len(by_speaker[speaker]))
        speakers, few = {least}, f"the corpus has {len(by_speaker)} speakers only: "
    else:
        ordered = sorted(by_speaker, key=_hash)
        speakers, few = set(ordered[: round(fraction * len(by_speaker))]), ""
    rest, taken = _partition(utterances, lambda utterance: utterance.speaker in speakers)
    remark = (
        f"{few}the dev set is split off train: {len(speakers)} of {len(by_speaker)} speakers, "
        f"{len(taken)} of {len(utterances)} utterances"
    )
    return rest, taken, remark


def perturb_speed(folder: str | Path, factors: Iterable[float], out: str | Path) -> int:
    """Make the data dir `out` with a copy of `folder` at every speed of `factors`; returns its utterances.

    Names are Kaldi's: utterance and speaker get the prefix `sp0.9-`, at speed 1 they stay as they are. Speeds that
    `folder` has already multiply. Durations and numbers of frames are left to the features. What features dropped from
    `out` before stays dropped.
    """
    folder, out = Path(folder), Path(out)
    utterances = read(folder)
    audio = _anchored({utterance.name: utterance.audio for utterance in utterances}, folder)
    speeds = read_table(folder / SPEEDS) if (folder / SPEEDS).exists() else {}
    made: dict[str, dict[str, str]] = {name: {} for name in (*REQUIRED, SPEEDS)}
    for factor in factors:
        prefix = "" if factor == 1 else f"sp{factor:g}-"
        for utterance in utterances:
            name = prefix + utterance.name
            made["wav.scp"][name], made["text"][name] = audio[utterance.name], utterance.text
            made["utt2spk"][name] = prefix + utterance.speaker
            made[SPEEDS][name] = f"{factor * float(speeds.get(utterance.name, 1)):g}"
    origin = {"tables": hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()}
    if read_json(out / ORIGIN) != origin:
        with atomic_folder(out, ORIGIN) as temporary:
            for name, table in made.items():
                write_table(temporary / name, table)
            write_table(temporary / "spk2utt", spk2utt(made["utt2spk"]))
            with atomic_write(temporary / ORIGIN) as stream:
                json.dump(origin, stream)
    return len(made["text"])


def subset(folder: str | Path, names: Iterable[str], out: str | Path) -> None:
    """Write the tables of `folder` for the utterances `names` to the data dir `out`, whole or not at all."""
    folder, names = Path(folder), set(names)
    with atomic_folder(out, ORIGIN) as temporary:
        for table in (*BY_UTTERANCE, *BY_SPEAKER):
            if (folder / table).exists():
                shutil.copy(folder / table, temporary / table)
        keep(temporary, names)
        write_table(temporary / "wav.scp", _anchored(read_table(temporary / "wav.scp"), folder))
        with atomic_write(temporary / ORIGIN) as stream:
            json.dump({"subset_of": str(folder)}, stream)


def keep(folder: str | Path, names: Iterable[str]) -> None:
    """Take every utterance but `names` out of the tables of `folder`, speakers left without one included.

    Each table is replaced whole; when interrupted between two tables, doing it again completes it.
    """
    folder, names = Path(folder), set(names)
    speakers = {name: speaker for name, speaker in read_table(folder / "utt2spk").items() if name in names}
    for table in (*BY_UTTERANCE, *BY_SPEAKER[1:]):
        if (folder / table).exists():
            kept = names if table in BY_UTTERANCE else set(speakers.values())
            entries = read_table(folder / table)
            write_table(folder / table, {name: value for name, value in entries.items() if name in kept})
    write_table(folder / "spk2utt", spk2utt(speakers))


def split(folder: str | Path, jobs: int) -> list[Path]:
    """Cut the data dir into `folder/splitN/1 ... N` of consecutive utterances, equal in number up to one."""
    folder = Path(folder)
    names = sorted(read_table(folder / "wav.scp"))
    if not 1 <= jobs <= len(names):
        raise UserError(f"{folder} cannot be split in {jobs}; expected 1 to {len(names)}, its number of utterances")
    bounds = [len(names) * job // jobs for job in range(jobs + 1)]
    with atomic_folder(folder / f"split{jobs}", mark="1") as temporary:
        for job in range(jobs):
            subset(folder, names[bounds[job] : bounds[job + 1]], temporary / str(job + 1))
    return [folder / f"split{jobs}" / str(job + 1) for job in range(jobs)]


def fingerprint(utterances: Iterable[Utterance]) -> str:
    """A sha256 of the utterances: the same for the same tables."""
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update("\t".join((utterance.name, utterance.audio, utterance.text, utterance.speaker)).encode() + b"\n")
    return digest.hexdigest()


def _anchored(audio: dict[str, str], folder: Path) -> dict[str, str]:
    """`audio` of the data dir `folder` for another one, where paths from `folder` would say nothing."""
    return {
        name: str((folder / location).absolute())
        if not location.startswith("/") and (folder / location).is_file()
        else location
        for name, location in audio.items()
    }


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _shuffled(utterances: list[Utterance], fraction: float) -> list[Utterance]:
    """A `fraction` of the utterances, at least one, the same on every machine."""
    ordered = sorted(utterances, key=lambda utterance: _hash(utterance.name))
    return ordered[: max(1, round(fraction * len(ordered)))]


def _partition(utterances: list[Utterance], chosen) -> tuple[list[Utterance], list[Utterance]]:
    return [u for u in utterances if not chosen(u)], [u for u in utterances if chosen(u)]
