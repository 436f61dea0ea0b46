"""What experiments left, as the measured rows of the paper's tables: each with its origin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dirnet.asr.score import interval
from dirnet.errors import UserError
from dirnet.files import read_log
from dirnet.nn import storage
from dirnet.report.corpus import corpus_of
from dirnet.report.results import collect, read_result, seed_of

KNOWN = {"svd": "LSTM-SVD", "odl": "LSTM-ODL", "dirnet": "DirNet"}  # methods that the paper has, too
UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Origin:
    """Where a measured row comes from, for its reader to judge and to repeat."""

    data: str
    model: str
    seeds: str
    commit: str
    device: str
    command: str


@dataclass(frozen=True)
class Measured:
    """One row. error: perplexity or error rate in per cent, with its interval where there is one (low, high).

    ratio: of the parameters that the table counts; ratio_all: of all. speed_up: over the fastest dense fp32 engine.
    x: the place on the axis of a sweep. control: the dense model with the same fine-tuning. data: the test set's name,
    where there may be several.
    """

    method: str
    error: float
    origin: Origin
    params: int = 0
    ratio: float = 1.0
    ratio_all: float | None = None
    low: float | None = None
    high: float | None = None
    speed_up: float | None = None
    speed_up_int8: float | None = None
    x: float | None = None
    control: bool = False
    label: str = field(default="")
    data: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def table1(folder: Path, given: dict[str, str]) -> list[Measured]:
    """The rows of a work folder of egs/ptb_dirnet, or of its `exp/report`."""
    found = read_result(folder / "exp/report/results.json") or read_result(folder / "results.json")
    if found is None:
        raise UserError(f"{folder} holds no exp/report/results.json; run egs/ptb_dirnet/run.sh, its stage 7 too")
    facts, rows = found["facts"], []
    origin = _origin(given, **{name: str(facts.get(name) or UNKNOWN) for name in ("data", "model", "commit", "device",
                     "command")}, seeds=str(facts["seed"]))  # fmt: skip
    for row in found["rows"]:
        if row["perplexity"]:
            ppl, low, high = row["perplexity"]
            rows.append(Measured(
                row["model"].rpartition("_")[0] or row["model"], ppl, origin, row["recurrent_weights"], row["ratio"],
                row["ratio_all"], low, high, row["speed_up"], row["speed_up_int8"],
                control=row["model"].startswith("dense"), label=row["model"],
            ))  # fmt: skip
    return rows


def table2(folder: Path, given: dict[str, str], metric: str = "wer") -> list[Measured]:
    """The rows of a work folder of egs/librispeech_dirnet, of its `exp`, or of `bench.accuracy` (pooled over seeds)."""
    if (folder / "results.jsonl").exists():
        return _bench_rows(folder, given, metric)
    exp = folder / "exp" if (folder / "exp").is_dir() else folder
    sets = sorted({path.parent.name.removeprefix("decode_") for path in exp.glob(f"*/decode_*/{metric}.json")})
    if not sets:
        raise UserError(f"{folder} holds neither results.jsonl of bench.accuracy nor decoded models; run stage 6 first")
    compressed = [path.parent.parent.name for path in sorted(exp.glob("*_*/start/model.json"))]
    base = next((name for name in ("smbr", "ctc") if (exp / name / storage.DESCRIPTION).exists()), None)
    if base is None:
        raise UserError(f"{exp} holds no dense model smbr or ctc; run the stages 3 and 4 first")
    rows, command = [], _command(exp / "report/results.md")
    for name in sets:
        for row in collect(exp, [base, *compressed], name):
            rate = getattr(row, metric)
            if rate is None:
                continue
            told = storage.describe(exp / row.name)
            seed, config = seed_of(exp / row.name), told["config"]
            origin = _origin(given, data=f"{corpus_of(exp.parent / 'data') or UNKNOWN}, set {name}",
                             seeds=UNKNOWN if seed is None else str(seed),
                             model=f"{config['num_layers']}x{config['hidden_size']} {config['rnn_type']}",
                             commit=told.get("commit") or UNKNOWN, command=command,
                             device=row.timing.get("cpu", UNKNOWN))  # fmt: skip
            method = row.name.rpartition("_")[0] or row.name
            rows.append(Measured(
                method, rate.percent, origin, row.params, row.ratio, row.ratio, rate.low, rate.high, row.speed_up,
                row.timing.get("speed_up_int8"), control=method == "dense", label=f"{row.name} {name}",
                data=name,
            ))  # fmt: skip
    return rows


def sweep(folder: Path, what: str, given: dict[str, str]) -> list[Measured]:
    """The points that `dirnet sweep WHAT` left in `folder`; `error` is the WER of widths, else the F-score."""
    path = folder / f"{what}.jsonl"
    if not path.exists():
        raise UserError(f"{path} does not exist; run `dirnet sweep {what}` first, or give its options after --")
    rows = []
    for row in read_log(path):
        setting = row["setting"]
        origin = _origin(given, data=f"{setting['set']}, not fine-tuned", seeds=str(setting["seed"]),
                         model=row.get("dense") or given.get("model") or f"sha256 {setting['model'][:12]}",
                         commit=row["commit"] or UNKNOWN, device=row["device"], command=UNKNOWN)  # fmt: skip
        score = row["wer"] if what == "widths" else row["f_score"]
        method, _, label = row["key"].partition(" ")
        rows.append(Measured(method, score, origin, row["params"], x=row["x"], label=label))
    return rows


def halves(rows: Sequence[Measured], ratio: float, tolerance: float) -> tuple[list[Measured], list[Measured]]:
    """The two halves of tables 1 and 2: the largest R of each method without loss, and all at `ratio`.

    Without loss: not more than `tolerance` per cent above the control (the first row where there is none).
    """
    control = next((row for row in rows if row.control), rows[0])
    kept: dict[str, Measured] = {}
    for row in rows:
        fine = row.error <= control.error * (1 + tolerance / 100)
        if fine and row is not rows[0] and not row.control and row.ratio > kept.get(row.method, rows[0]).ratio:
            kept[row.method] = row
    fixed = [row for row in rows if abs(row.ratio / ratio - 1) < 0.05]
    return [control, *kept.values()], fixed


def _bench_rows(folder: Path, given: dict[str, str], metric: str) -> list[Measured]:
    """Means over the seeds; dense is the control."""
    errors, units = ("word_errors", "words") if metric == "wer" else ("phone_errors", "phones")
    groups: dict[tuple[str, str], list[dict]] = {}
    latest = {(row["size"], row["method"], row["seed"]): row for row in read_log(folder / "results.jsonl")
              if row["stage"] == "after"}  # fmt: skip
    for (size, method, _), row in latest.items():
        groups.setdefault((method, size), []).append(row)
    if ("dense", "1x") not in groups:
        raise UserError(f"{folder} holds no fine-tuned dense model; run bench.accuracy with the method dense")
    whole = groups.pop(("dense", "1x"))
    rows = []
    for (method, size), found in [(("dense", "1x"), whole), *groups.items()]:
        first = found[0]
        if units not in first:
            raise UserError(f"{folder} has no {units[:-1]} errors, as the bench had no graph; give --metric per")
        origin = _origin(
            given, data=f"{first['hours']} h of training audio, {len(first[units])} test utterances",
            model=given.get("model") or f"{whole[0]['params']:,} params", device=first["device"],
            seeds=", ".join(str(row["seed"]) for row in found), command=UNKNOWN,
            commit=", ".join(sorted({row["commit"] or UNKNOWN for row in found})),
        )  # fmt: skip
        rate, low, high = _pooled([row[errors] for row in found], [row[units] for row in found])
        ratio = whole[0]["params"] / first["params"]
        rows.append(Measured(method, rate, origin, first["params"], ratio, ratio, low, high, control=method == "dense",
                             label=f"{method} {size}"))  # fmt: skip
    return rows


def _pooled(errors: Sequence[Sequence[int]], units: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    """Error rate in per cent over all seeds, and the ends of its 95 % bootstrap interval over utterances."""
    edits, total = np.sum(errors, axis=0), np.sum(units, axis=0)
    low, high = interval(edits, total)
    return float(100 * edits.sum() / total.sum()), 100 * low, 100 * high


def _origin(given: dict[str, str], **found: str) -> Origin:
    """What was found, and what the user says where nothing is recorded."""
    return Origin(**{name: value if value != UNKNOWN else given.get(name) or UNKNOWN for name, value in found.items()})


def _command(path: Path) -> str:
    """The command in a results.md."""
    found = re.search(r"```sh\n(.*)\n```", path.read_text(encoding="utf-8")) if path.exists() else None
    return found[1] if found else UNKNOWN
