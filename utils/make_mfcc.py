#!/usr/bin/env python3
"""Make the MFCC features and CMVN statistics of a data dir with parallel jobs; a rerun of a finished one does nothing.

Writes OUT/feats.scp, OUT/raw_mfcc.N.ark, OUT/cmvn.npz, and utt2num_frames and utt2dur in DATA. Utterances without
usable features leave DATA's tables (with a count; more than 5 % of them is an error).
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from dirnet.asr import datadir
from dirnet.asr.ark import read_scp
from dirnet.asr.audio import add_audio_options, audio_reader
from dirnet.asr.features import MfccConfig, Statistics, check_skipped, fingerprint, read_entries
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write, read_json
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Make the features of DATA in OUT."""
    parser = Parser(description=__doc__)
    parser.add_argument("data", metavar="DATA", type=Path, help="data dir: data/train")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the features: dump/mfcc/train")
    parser.add_argument("--cmd", default="utils/run.pl", help="how jobs are run: utils/run.pl, utils/slurm.pl --mem 2G")
    parser.add_argument("--nj", type=int, default=4, help="number of jobs")
    parser.add_argument("--config", default="conf/mfcc.conf", help="Kaldi-style MFCC options")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the jobs")
    parser.add_argument("--max_skipped", type=float, default=0.05, help="fraction of utterances that may be unusable")
    add_audio_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.nj < 1:
        raise UserError(f"--nj is {arguments.nj}, expected at least 1 job")
    config = MfccConfig.read(arguments.config)
    reader = audio_reader(arguments, arguments.data, config.sample_frequency)
    entries = read_entries(arguments.data)
    if _is_done(arguments.out, arguments.data, fingerprint(entries, config, reader)):
        print(f"{arguments.out}: already done")
        return 0
    for name in ("mfcc.json", "feats.scp", "cmvn.npz"):  # they tell of archives that are about to be replaced
        (arguments.out / name).unlink(missing_ok=True)
    jobs = min(arguments.nj, len(entries))
    if status := _run_jobs(arguments, jobs):
        return status
    records = [read_json(f"{_job(arguments.out, job)}.json") for job in range(1, jobs + 1)]
    missing = [job for job, record in enumerate(records, 1) if record is None]
    if missing:
        raise UserError(f"{_job(arguments.out, missing[0])}.json is missing; look at the log in {arguments.out}/log")
    skipped = {name: reason for record in records for name, reason in record["skipped"].items()}
    check_skipped(skipped, len(entries), arguments.max_skipped)
    for name, reason in skipped.items():
        print(f"{arguments.data}: {name} skipped, {reason}")
    frames = _merge(arguments.data, arguments.out, jobs)
    left = {name: location for name, location in entries.items() if name not in skipped}
    record = {
        "fingerprint": fingerprint(left, config, reader),
        "utterances": len(left),
        "skipped": skipped,
        "frames": frames,
        "audio_s": sum(record["audio_s"] for record in records),
        "elapsed_s": sum(record["elapsed_s"] for record in records),
    }
    with atomic_write(arguments.out / "mfcc.json") as stream:
        json.dump(record, stream, indent=1)
    shutil.rmtree(arguments.data / f"split{jobs}")
    rate = record["audio_s"] / record["elapsed_s"]
    print(
        f"{arguments.out}: {len(left)} utterances, {frames} frames, {len(skipped)} skipped; "
        f"{record['audio_s']:.0f} s of audio at {rate:.0f} x real time a job, {jobs} jobs"
    )
    return 0


def _job(out: Path, job: int) -> str:
    return f"{out}/raw_mfcc.{job}"


def _is_done(out: Path, data: Path, expected: str) -> bool:
    """Whether the features in `out` are those of the input with the fingerprint `expected`, and all there."""
    record = read_json(out / "mfcc.json")
    if record is None or record["fingerprint"] != expected:
        return False
    needed = [out / "feats.scp", out / "cmvn.npz", data / "utt2num_frames", data / "utt2dur"]
    if not all(path.is_file() for path in needed):
        return False
    archives = {location.rpartition(":")[0] for location in read_scp(out / "feats.scp").values()}
    return all(Path(archive).is_file() for archive in archives)


def _run_jobs(arguments: argparse.Namespace, jobs: int) -> int:
    """Run `python -m dirnet.asr.features` on each part of the data dir; status of the job runner, which tells why."""
    datadir.split(arguments.data, jobs)
    log = arguments.out / "log" / "make_mfcc.JOB.log"
    command = [
        *shlex.split(arguments.cmd), f"JOB=1:{jobs}", str(log),
        arguments.python, "-m", "dirnet.asr.features", "--config", arguments.config,
        "--data", f"{arguments.data}/split{jobs}/JOB", "--out", _job(arguments.out, 0)[:-1] + "JOB",
        "--resample", str(arguments.resample).lower(), "--allow_pipe", str(arguments.allow_pipe).lower(),
        "--max_skipped", "1",  # counted over all jobs, below
    ]  # fmt: skip
    for root in (str(arguments.data), *arguments.data_root):
        command += ["--data_root", root]
    with subprocess.Popen(command) as runner:
        try:
            status = runner.wait()
        except KeyboardInterrupt:
            runner.terminate()  # the runner ends its jobs, which remove what they have half-written
            raise
    return status


def _merge(data: Path, out: Path, jobs: int) -> int:
    """Join the jobs' outputs into `out/feats.scp`, `out/cmvn.npz` and the tables of `data`; returns the frames."""
    scp, frames, durations, statistics = {}, {}, {}, Statistics()
    for job in range(1, jobs + 1):
        scp |= read_scp(f"{_job(out, job)}.scp")
        frames |= datadir.read_table(f"{_job(out, job)}.utt2num_frames")
        durations |= datadir.read_table(f"{_job(out, job)}.utt2dur")
        statistics += Statistics.read(f"{_job(out, job)}.cmvn.npz")
    for stale in out.glob("raw_mfcc.*"):  # of an earlier run with more jobs
        if int(stale.name.split(".")[1]) > jobs:
            stale.unlink()
    statistics.write(out / "cmvn.npz")
    datadir.write_table(out / "feats.scp", scp)
    datadir.write_table(data / "utt2num_frames", frames)
    datadir.write_table(data / "utt2dur", durations)
    datadir.keep(data, frames)
    return statistics.count


if __name__ == "__main__":
    main()
