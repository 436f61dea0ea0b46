"""What the stages left in the experiment folders, as rows of the results table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor, nn

from dirnet.asr.tokens import type_of
from dirnet.compression.picture import thumbnail
from dirnet.compression.report import size_figures
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.coded import CodedMatrix

SCORE = ("percent", "percent_low", "percent_high")
COLUMNS = ("model", "params", "bytes", "R", "{rate} %", "WER %", "RTF", "speed-up")


@dataclass(frozen=True)
class ErrorRate:
    """An error rate in percent with its 95 % bootstrap interval."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.percent:.1f} [{self.low:.1f}, {self.high:.1f}]"


class Codes(NamedTuple):
    """Where the codes of a group are: `thumbnail` cells of a matrix of `shape` (p, M), and the share that is kept."""

    name: str
    cells: Tensor
    shape: tuple[int, int]
    density: float


@dataclass(frozen=True)
class Row:
    """One model of the results table; a figure that no stage measured is None, shown as a dash.

    `dense` marks a peer that is not compressed at all, `method` is the name itself for the first row. `ratio` is the
    first row's parameters / parameters, `rate` the name of the token error rate `per` (PER, CER or TER), `rtf` seconds
    of computation per second of audio in the median call (of the dense model: of its fastest fp32 engine), `speed_up`
    that of the fastest dense fp32 engine of the same run over this model's, `groups` the table in compression.json,
    `codes` what a heat map shows of each group, `curves` the records of curves.json (one an epoch), `timing` the
    content of rtf.json.
    """

    name: str
    method: str
    params: int
    bytes: int
    ratio: float
    dense: bool = False
    per: ErrorRate | None = None
    wer: ErrorRate | None = None
    rtf: float | None = None
    speed_up: float | None = None
    rate: str = "PER"
    groups: list[dict[str, Any]] = field(default_factory=list)
    codes: list[Codes] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    timing: dict[str, Any] = field(default_factory=dict)

    def cells(self) -> list[str]:
        """The row as text, in the order of `COLUMNS`."""
        return [
            self.name + " (dense)" * self.dense,
            f"{self.params:,}",
            f"{self.bytes:,}",
            f"{self.ratio:.1f}x",
            str(self.per or "-"),
            str(self.wer or "-"),
            rtf_text(self.rtf) if self.rtf else "-",
            f"{self.speed_up:.1f}x" if self.speed_up else "-",
        ]


def rtf_text(rtf: float) -> str:
    """A real-time factor, to be compared down a column."""
    return f"{rtf:.6f}"


def read_result(path: Path, kind: type = dict, keys: Sequence[str] = ()) -> Any:
    """The JSON file `path`, a `kind` that has `keys`; None where it is absent.

    One that is damaged, is something else or holds NaN or infinity is a `UserError`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and run its stage again") from None
    lacking = [key for key in keys if key not in found] if isinstance(found, kind) else [kind.__name__]
    if lacking:
        raise UserError(f"{path} holds no {lacking[0]}; delete it and run its stage again")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")  # JSON has no such number, and no table shows it


def measured(path: Path, model: Path, keys: Sequence[str] = ()) -> dict[str, Any] | None:
    """`read_result` of a measurement of the model in the file `model`; None, and said, where that has changed since."""
    found = read_result(path, keys=keys)
    if found is None or not model.exists():
        return found
    if path.stat().st_mtime < model.stat().st_mtime:
        print(f"{path} is older than {model}, so it is left out; run its stage again", file=sys.stderr)
        return None
    if (timed := found.get("model_sha256")) and timed != (read_result(model) or {}).get("sha256"):
        print(f"{path} is of another model than {model}, so it is left out; run its stage again", file=sys.stderr)
        return None
    return found


def collect(exp: Path, models: list[str], test_set: str) -> list[Row]:
    """One row for each folder of `models` in `exp`, the first being the model that the others are compared with.

    One that was compressed from another model than that is a `UserError`.
    """
    rows: list[Row] = []
    for name in models:
        folder = exp / name
        model, made = storage.load(folder), folder / storage.DESCRIPTION
        dense = dense_sha256(folder)
        if dense and not rows and models[1:]:
            raise UserError(f"{folder} is a compressed model, with which the table would compare the others; give its "
                            "dense model first")  # fmt: skip
        if rows and dense and dense != storage.describe(exp / rows[0].name)["sha256"]:
            raise UserError(f"{folder} was made from another model than {exp / rows[0].name}, with which the table "
                            "compares; give its own dense model first, or make it again")  # fmt: skip
        size = size_figures(model)
        rate = type_of(model.config.phones).rate
        timing, decoded = measured(folder / "rtf.json", made, ("rtf_p50",)) or {}, folder / f"decode_{test_set}"
        solved = (folder / "start", folder)  # of a model that was fine-tuned since, or not
        compression = next(filter(None, (read_result(place / "compression.json") for place in solved)), {})
        rows.append(
            Row(
                name=name,
                method=compression.get("method", name),
                params=size["params"],
                bytes=size["bytes"],
                dense=compression.get("settings", {}).get("solver") in ("dense", "small"),
                ratio=(rows[0].params if rows else size["params"]) / size["params"],
                rate=rate.upper(),
                per=error_rate(measured(decoded / f"{rate}.json", made, SCORE)),
                wer=error_rate(measured(decoded / "wer.json", made, SCORE)),
                rtf=timing.get("rtf_p50"),
                speed_up=timing.get("speed_up"),
                groups=compression.get("groups", []),
                codes=codes_of(model, compression.get("groups", [])),
                curves=read_result(folder / "curves.json", list) or [],
                timing=timing,
            )
        )
    return rows


def dense_sha256(folder: Path) -> str | None:
    """Of the weights that the model in `folder` was compressed from; None where it was not."""
    for place in (folder / "start", folder):
        if (place / storage.DESCRIPTION).exists():
            request = storage.describe(place).get("extra", {}).get("compression")
            if isinstance(request, dict):
                return request.get("dense_sha256")
    return None


def codes_of(model: nn.Module, groups: list[dict[str, Any]]) -> list[Codes]:
    """The codes of a compressed model, named as in the table of its groups; none for a dense one."""
    coded = [module.code_matrix().detach() for module in model.modules() if isinstance(module, CodedMatrix)]
    return [
        Codes(group["name"].removeprefix("rnn."), thumbnail(codes), tuple(codes.shape), group["density"])
        for group, codes in zip(groups, coded, strict=False)
    ]


def stages_of(exp: Path, name: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """The trainings that led to a model, the first one first: folder and records of curves.json of each."""
    stages: list[tuple[str, list[dict[str, Any]]]] = []
    while name and name not in dict(stages) and (exp / name / storage.DESCRIPTION).exists():
        stages.insert(0, (name, read_result(exp / name / "curves.json", list) or []))
        training = storage.describe(exp / name).get("extra", {}).get("training", {})
        name = Path(training.get("init") or "").name  # what a stage starts from lies beside it
    return stages


def seed_of(folder: Path) -> int | None:
    """The seed in ESPnet's config.yaml, None where the model was not trained by it."""
    try:
        return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")).get("seed")
    except FileNotFoundError:
        return None


def error_rate(score: dict[str, Any] | None) -> ErrorRate | None:
    """The rate that `dirnet.asr.score` left, None where it did not run."""
    return score and ErrorRate(*(score[key] for key in SCORE))


def columns(rows: list[Row]) -> list[str]:
    """The header of the table of `rows`, which share their token type."""
    return [name.format(rate=rows[0].rate) for name in COLUMNS]


def markdown(rows: list[Row]) -> str:
    """The results table in Markdown, aligned so that it also reads well on a terminal."""
    lines = [columns(rows), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    align = [str.ljust] + [str.rjust] * (len(COLUMNS) - 1)
    text = ["| " + " | ".join(a(c, w) for a, c, w in zip(align, line, widths, strict=True)) + " |" for line in lines]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    text.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(text) + "\n"
