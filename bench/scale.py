"""What a corpus of any size costs, measured on a small one: `python -m bench.scale --data WORKDIR --out DIR`.

WORKDIR is a recipe's folder after stages 0 to 2. Each stage's own program runs on two samples of its training audio,
with one thread; CPU seconds and peak memory come from the operating system. The line through these points, and those of
earlier runs, tells what an hour of audio costs and what does not depend on it (imports, the graph). Finished cells
stand in OUT/scale.jsonl and are not measured again; OUT/scale.md has the tables and full LibriSpeech's commands.

Training is timed on the CPU, or with `--ngpu 1` by the wall clock of a GPU where there is one. The hours of other
machines follow from `--gpu_rate`, the hours of audio that one GPU trains on in an hour, which is nobody's measurement
here unless `--ngpu` made it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench import scale_table
from dirnet.asr import datadir
from dirnet.asr.ark import read_scp
from dirnet.errors import UserError, one_line_errors
from dirnet.files import append_log, atomic_write, read_json, read_log
from dirnet.options import Parser
from dirnet.provenance import commit, cpu_name

DEV = 20  # every so many utterances of a sample are its development set
# A process starts with the peak memory of the one that started it, so a small one stands between.
WATCH = """import json, os, sys, time
started = time.perf_counter()
_, status, used = os.wait4(os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:]), 0)
with open(sys.argv[1], "w") as stream:
    json.dump([used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024], stream)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


@dataclass(frozen=True)
class Cell:
    """One stage on one sample: hours of audio, CPU and wall seconds, peak memory, and the bytes that it leaves."""

    stage: str
    hours: float
    cpu_s: float
    wall_s: float
    peak_mb: float
    left_bytes: int


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Measure what OUT lacks, then write and print OUT/scale.md."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="a recipe's folder after stages 0 to 2")
    parser.add_argument("--out", required=True, type=Path, help="folder of the measurements")
    parser.add_argument("--hours", type=float, nargs=2, default=(0.1, 0.3), help="audio in the two samples")
    parser.add_argument("--config", default="conf/train_ctc.yaml", help="training to be timed, for one epoch")
    parser.add_argument("--decode_config", default="conf/decode.yaml")
    parser.add_argument("--smbr_config", default="conf/train_smbr.yaml", help="the sMBR training, likewise")
    parser.add_argument("--model", type=Path, help="trained model whose posteriors are decoded; default: that one "
                        "epoch's, whose search takes another time than a trained one's")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=40, help="of a whole CTC training, for the tables")
    parser.add_argument("--smbr_epochs", type=int, default=5, help="of a whole sMBR training, likewise")
    parser.add_argument("--ngpu", type=int, default=0, choices=(0, 1), help="1: time the training on a GPU")
    parser.add_argument("--gpu_rate", type=float, help="hours of audio that one GPU trains on in an hour")
    arguments = parser.parse_args(argv)
    one, two = arguments.hours
    if not 0 < one < two:
        raise UserError(f"--hours is {one:g} {two:g}, expected two numbers above 0 in rising order")
    if arguments.ngpu > torch.cuda.device_count():
        raise UserError("--ngpu is 1, but torch sees no GPU; leave it out to time the CPU")
    if arguments.gpu_rate is not None and not arguments.gpu_rate > 0:
        raise UserError(f"--gpu_rate is {arguments.gpu_rate:g}, expected hours of audio per hour above 0")
    setting = {"data": str(arguments.data), "config": arguments.config,
               "smbr_config": arguments.smbr_config, "model": str(arguments.model or ""),
               "decode_config": arguments.decode_config, "ngpu": arguments.ngpu}  # fmt: skip
    log = arguments.out / "scale.jsonl"
    rows = finished(log, setting)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for hours in (one, two):
        for cell in measure(arguments, hours, {row["stage"] for row in rows if row["asked"] == hours}):
            rows.append({**asdict(cell), "asked": hours, "setting": setting, "commit": commit(), "device": cpu_name()})
            append_log(log, rows[-1])
            told = f"{cell.cpu_s:.1f} s CPU, {cell.wall_s:.1f} s, {cell.peak_mb:.0f} MB"
            print(f"{hours:g} h, {cell.stage}: {told}", flush=True)
    shown = scale_table.page(rows, arguments)
    with atomic_write(arguments.out / "scale.md") as stream:
        stream.write(shown)
    print(shown)
    return 0


def finished(log: Path, setting: dict) -> list[dict]:
    """The rows in `log`; of another setting they are a `UserError`."""
    rows = read_log(log)
    for row in rows:
        if row["setting"] != setting:
            name = next(name for name in setting if row["setting"].get(name) != setting[name])
            there = row["setting"].get(name)
            raise UserError(f"{log} is of {name} {there!r}, not {setting[name]!r}; give another --out")
    return rows


def measure(arguments: argparse.Namespace, hours: float, done: set[str]) -> Iterator[Cell]:
    """Yield a `Cell` for each stage that is not in `done`, on a sample of `hours`."""
    folder = arguments.out / f"work_{hours:g}h"
    sample = make_sample(arguments.data, folder, hours)
    lang, train, dump = arguments.data / "data/lang", folder / "data/train", folder / "dump/mfcc/train"
    training = (f"dirnet.espnet.train --data {folder}/data --dump {folder}/dump/mfcc --lang {lang} "
                f"--ngpu {arguments.ngpu} --max_epoch 1 --num_workers 0 ")  # fmt: skip
    posteriors = f"dirnet.posteriors --feats {dump}/feats.scp "
    stages = {  # the command, and the folder that it fills
        "features": (f"dirnet.asr.features --data {train} --out {dump}/raw_mfcc.1 --config conf/mfcc.conf", dump),
        "CTC, an epoch": (f"{training} --config {arguments.config} --exp {folder}/ctc", folder / "ctc"),
        "sMBR, an epoch": (f"{training} --config {arguments.smbr_config} --init {folder}/ctc --exp {folder}/smbr",
                           folder / "smbr"),
        "posteriors": (f"{posteriors} --model {folder}/ctc --out {folder}/post", folder / "post"),
        "decoding": (f"dirnet.asr.decode --lang {lang} --posteriors {folder}/trained/posteriors.scp --nj 1 "
                     f"--config {arguments.decode_config} --out {folder}/decode", folder / "decode"),
        "scoring": (f"dirnet.asr.score --ref {train}/text --hyp {folder}/decode/text --out {folder}/score",
                    folder / "score"),
    }  # fmt: skip
    for stage, (command, left) in stages.items():
        if stage in done:
            continue
        shutil.rmtree(left, ignore_errors=True)  # of an interrupted run: a finished program has nothing to do
        if stage == "decoding":  # of the trained model, whose posteriors are not what is timed
            run(f"{posteriors} --model {arguments.model or folder / 'ctc'} --out {folder}/trained", folder)
        cpu, wall, peak = run(command, folder)
        if stage == "features":
            join_features(folder)
        if stage.endswith("epoch") and arguments.ngpu:
            wall = read_json(left / "curves.json")[0]["seconds"]  # without what happens once in every run
        yield Cell(stage, sample, cpu, wall, peak, sum(path.stat().st_size for path in left.glob("*.ark")))


def make_sample(workdir: Path, folder: Path, hours: float) -> float:
    """Make `folder/data/train` and `dev` of utterances spread over `workdir`'s; returns the hours of train."""
    source, out = workdir / "data/train", folder / "data/train"
    for name in ("utt2dur", "text_phones"):
        if not (source / name).is_file():
            raise UserError(f"{source / name} does not exist; run stages 0 to 2 of the recipe with --workdir {workdir}")
    durations = {name: float(seconds) for name, seconds in datadir.read_table(source / "utt2dur").items()}
    total = sum(durations.values()) / 3600
    if total < hours:
        raise UserError(f"{source} has {total:.2f} hours of audio, fewer than --hours {hours:g}; give smaller samples")
    names = sorted(durations)
    number = max(DEV, int(len(names) * hours / total))
    chosen = [names[index * len(names) // number] for index in range(number)]
    phones = datadir.read_table(source / "text_phones")
    for target, part in ((out, chosen), (folder / "data/dev", chosen[::DEV])):
        if not (target / "text_phones").is_file():  # which is written last
            datadir.subset(source, part, target)
            datadir.write_table(target / "text_phones", {name: phones[name] for name in part})
    return sum(durations[name] for name in chosen) / 3600


def join_features(folder: Path) -> None:
    """Name the sample's features as training reads them: `feats.scp` of both sets and `cmvn.npz`."""
    dump = folder / "dump/mfcc"
    found = read_scp(dump / "train/raw_mfcc.1.scp")
    datadir.write_table(dump / "train/feats.scp", found)
    dev = datadir.read_table(folder / "data/dev/wav.scp")
    datadir.write_table(dump / "dev/feats.scp", {name: found[name] for name in dev})
    with atomic_write(dump / "train/cmvn.npz", "wb") as stream:
        stream.write((dump / "train/raw_mfcc.1.cmvn.npz").read_bytes())


def run(command: str, folder: Path) -> list[float]:
    """Run the module and options `command` with one thread: CPU seconds, wall seconds, peak megabytes.

    Of it and of what it starts; its outputs go to `folder/log`.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    watch = [sys.executable, "-I", "-S", "-c", WATCH, folder / "used.json", sys.executable, "-m"]
    with open(folder / "log", "ab") as log:
        done = subprocess.run([*watch, *shlex.split(command)], stdout=log, stderr=log, env=environment, check=False)
    if done.returncode:
        raise UserError(f"`python -m {command}` ended with {done.returncode}; look at {folder}/log")
    return read_json(folder / "used.json")


if __name__ == "__main__":
    main()
