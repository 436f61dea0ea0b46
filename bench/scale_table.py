"""The tables of `bench.scale`: cost by hours of audio, and full LibriSpeech's commands with what they take."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

HOURS = (1, 10, 100, 960)
LIBRISPEECH_TESTS = 10.7  # hours of test-clean and test-other
ROWS = ("features", "CTC, an epoch", "sMBR, an epoch", "posteriors", "decoding", "scoring")
GPUS = (1, 2, 4, 8)
DDP = 0.9  # of N times the speed, for N > 1; an assumption


@dataclass(frozen=True)
class Line:
    """Seconds = fixed + rate * hours of audio; `peak_mb` at the larger sample, `bytes_per_hour` left on disk."""

    fixed: float
    rate: float
    peak_mb: float
    bytes_per_hour: float

    def seconds(self, hours: float) -> float:
        """What `hours` of audio take."""
        return self.fixed + self.rate * hours


def line_of(rows: list[dict], clock: str) -> Line:
    """The straight line nearest to the samples of one stage, by least squares; `clock` is `cpu_s` or `wall_s`."""
    rows = sorted(rows, key=lambda row: row["hours"])
    rate = np.polyfit([row["hours"] for row in rows], [row[clock] for row in rows], 1)[0]
    rate = max(0.0, float(rate))
    fixed = sum(row[clock] - rate * row["hours"] for row in rows) / len(rows)
    return Line(max(0.0, fixed), rate, rows[-1]["peak_mb"], rows[-1]["left_bytes"] / rows[-1]["hours"])


def shown(seconds: float) -> str:
    """Seconds, minutes or hours in three digits at most."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.{0 if seconds / size >= 10 else 1}f} {unit}"
    return f"{seconds / 3600:,.{0 if seconds >= 36000 else 1}f} h"


def page(rows: list[dict], arguments: argparse.Namespace) -> str:
    """The Markdown of both tables; `rows` as in `scale.jsonl`, at least two of each stage."""
    clocks = {stage: "wall_s" if arguments.ngpu and stage.endswith("epoch") else "cpu_s" for stage in ROWS}
    lines = {stage: line_of([row for row in rows if row["stage"] == stage], clocks[stage]) for stage in ROWS}
    some = rows[0]
    samples = ", ".join(f"{hours:.2f} h" for hours in sorted({row["hours"] for row in rows}))
    text = [
        f"Measured on {samples} of {arguments.data}, one thread of {some['device']}, commit {some['commit']}: "
        f"{arguments.config}, decoding the posteriors of {arguments.model or 'the model of that one epoch'}.",
        "",
        "| stage | s an hour of audio | s at the start | peak MB | MB left an hour | "
        + " | ".join(f"{hours} h" for hours in HOURS) + " |",
        "|---|" + "---:|" * (4 + len(HOURS)),
    ]  # fmt: skip
    for stage, line in lines.items():
        cells = [f"{line.rate:.1f}", f"{line.fixed:.1f}", f"{line.peak_mb:.0f}", f"{line.bytes_per_hour / 1e6:.1f}"]
        text.append(f"| {stage} | " + " | ".join([*cells, *(shown(line.seconds(hours)) for hours in HOURS)]) + " |")
    clock = "by the wall clock of a GPU" if arguments.ngpu else "in CPU seconds"
    text += ["", f"Times of one core, trainings {clock}; features, posteriors and decoding divide by --nj.", ""]
    return "\n".join([*text, *librispeech(lines, arguments)]) + "\n"


def librispeech(lines: dict[str, Line], arguments: argparse.Namespace) -> list[str]:
    """Full LibriSpeech's commands and their cost, lines of Markdown."""
    hours, tests = HOURS[-1], LIBRISPEECH_TESTS
    features, posteriors = lines["features"], lines["posteriors"]
    ctc, smbr = lines["CTC, an epoch"], lines["sMBR, an epoch"]
    training = arguments.epochs * ctc.seconds(hours) + arguments.smbr_epochs * smbr.seconds(hours)
    passes = training / ctc.seconds(hours)  # the trainings in epochs of CTC
    decode = posteriors.seconds(tests) + lines["decoding"].seconds(tests)
    archive, test_archive = hours * features.bytes_per_hour / 1e9, tests * posteriors.bytes_per_hour / 1e9
    device = "the GPU measured" if arguments.ngpu else "one core: not a plan, see below"
    out = [
        f"Full LibriSpeech, {hours} h, if CTC takes {arguments.epochs} epochs and sMBR {arguments.smbr_epochs} "
        "(assumed, `--epochs`, `--smbr_epochs`):",
        "",
        "| command | time | on | disk |",
        "|---|---:|---|---:|",
        "| `./run.sh --stop_stage 0` | | the network: 60 GB | 120 GB |",
        f"| `./run.sh --stage 1 --stop_stage 1 --nj N` | {shown(features.seconds(hours))} / N | one core "
        f"| {archive:.1f} GB |",
        f"| `./run.sh --stage 3 --stop_stage 4 --ngpu G` | {shown(training)} | {device} | |",
        f"| `./run.sh --stage 6 --stop_stage 6 --nj N`, {tests} h, a model | {shown(decode)} / N | one core "
        f"| {test_archive:.1f} GB |",
        "",
        f"Stages 3 and 4 on G GPUs: {passes:.0f} epochs of CTC x {hours} h / (R G E) hours. R: hours of audio that one "
        f"GPU trains on in an hour; E: 1 for one GPU, {DDP:g} assumed for more.",
    ]
    rate = 3600 / ctc.rate if arguments.ngpu and ctc.rate else arguments.gpu_rate
    if rate is None:
        return [*out, "R is not measured: `--gpu_rate R` makes the table, `--ngpu 1` where there is a GPU measures it."]
    told = "measured" if arguments.ngpu else "given by --gpu_rate, not measured"
    cost = [shown(3600 * passes * hours / (rate * count * (DDP if count > 1 else 1))) for count in GPUS]
    return [*out, "", f"| G, R = {rate:.0f} ({told}) | " + " | ".join(map(str, GPUS)) + " |",
            "|---|" + "---:|" * len(GPUS), "| stages 3 and 4 | " + " | ".join(cost) + " |"]  # fmt: skip
