"""What the stages left in the experiment folders, as rows of the results table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirnet.errors import UserError

COLUMNS = ("model", "params", "bytes", "R", "PER %", "WER %", "RTF", "speed-up")


@dataclass(frozen=True)
class ErrorRate:
    """An error rate in percent with its 95 % bootstrap interval."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.percent:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Row:
    """One model of the results table; a figure that no stage measured is None, shown as a dash.

    `ratio` is dense parameters / parameters, `rtf` seconds of computation per second of audio, `speed_up` the
    fastest dense fp32 engine of the same run over this model, `layers` the per-group table of compression.json.
    """

    name: str
    params: int
    bytes: int
    ratio: float
    per: ErrorRate | None
    wer: ErrorRate | None
    rtf: float | None
    speed_up: float | None
    layers: list[dict[str, Any]]
    curves: dict[str, Any] | None
    rtf_detail: dict[str, Any] | None

    def cells(self) -> list[str]:
        """The row as text, in the order of `COLUMNS`."""
        return [
            self.name,
            f"{self.params:,}",
            f"{self.bytes:,}",
            f"{self.ratio:.1f}x",
            str(self.per or "-"),
            str(self.wer or "-"),
            f"{self.rtf:.4f}" if self.rtf else "-",
            f"{self.speed_up:.1f}x" if self.speed_up else "-",
        ]


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON file `path`, None where it is absent, a `UserError` where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and run its stage again") from None


def markdown(rows: list[Row]) -> str:
    """The results table in Markdown, aligned so that it also reads well on a terminal."""
    lines = [list(COLUMNS), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    align = [str.ljust] + [str.rjust] * (len(COLUMNS) - 1)
    text = ["| " + " | ".join(a(c, w) for a, c, w in zip(align, line, widths, strict=True)) + " |" for line in lines]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    text.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(text) + "\n"
