"""The picture of the README, drawn from tables that RESULTS.md already has: stored bytes against phone errors.

    python -m bench.results_picture --results egs/librispeech_dirnet/RESULTS.md --section "Equal bytes, int8" \
        --title "3x256 LSTM, 9.3 h of synthetic speech, int8 after compression" --out docs/accuracy.svg
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.options import Parser
from dirnet.report.drawing import BESIDE, drawing, svg
from dirnet.report.palette import Palette

CONTROL = "dense"
NAMES = {"dirnet": "DirNet", "dirnet_b8": "DirNet, blocks of 8", "odl": "online dictionary learning", "svd": "SVD",
         "prune_gradual": "gradual pruning"}  # fmt: skip
PALETTE = Palette({name: name for name in NAMES})


class Point(NamedTuple):
    """A row of a table: bytes as stored, and the phone error rate in per cent with its interval."""

    method: str
    bytes: int
    per: float
    low: float
    high: float


def points_of(text: str, section: str) -> list[Point]:
    """The rows of all tables below the heading `section` of a Markdown `text`; none at all is a `UserError`."""
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    below = dict(zip(parts[1::2], parts[2::2], strict=True))
    found, header = [], []
    for line in below.get(section, "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells or cells[0] == "method":
            header = cells
        elif header and set(cells[0]) != {"-"}:
            row = dict(zip(header, cells, strict=True))
            method, size = row["method"].removesuffix("_int8"), int(row["bytes"].replace(",", ""))
            found.append(Point(method, size, *map(float, re.findall(r"[\d.]+", row["PER"]))))
    if not found:
        raise UserError(f"section {section!r} has no table of results; give a heading as it stands there")
    return found


def picture(points: list[Point], title: str) -> str:
    """An SVG: a curve a method over the stored size, and the control's rate and interval across."""
    control = next((point for point in points if point.method == CONTROL), None)
    with drawing(7.2, 3.6) as (figure, axes):
        if control:
            axes.axhspan(control.low, control.high, color="black", alpha=0.08, linewidth=0)
            axes.axhline(control.per, color="black", linewidth=1, linestyle="--",
                         label=f"dense float32, {control.bytes / 1e6:.1f} MB")  # fmt: skip
        for place, method in enumerate(NAMES):
            aside = 1 + 0.012 * (place - 1)  # so that equal sizes do not cover each other
            own = sorted((point for point in points if point.method == method), key=lambda point: point.bytes)
            if own:
                places, spread = [aside * p.bytes / 1e3 for p in own], [[p.per - p.low, p.high - p.per] for p in own]
                axes.errorbar(places, [p.per for p in own], yerr=list(zip(*spread, strict=True)), capsize=3,
                              elinewidth=0.8, label=NAMES[method], **PALETTE.method(method).curve())  # fmt: skip
        sizes = [point.bytes / 1e3 for point in points if point.method == next(iter(NAMES))]
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("stored size, kB with indices and scales")
        axes.set_ylabel("phone errors, % (95 % interval)")
        axes.set_title(title)
        axes.legend(**BESIDE)
        return svg(figure)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Draw a section of RESULTS.md."""
    parser = Parser(description=__doc__)
    parser.add_argument("--results", required=True, type=Path, help="RESULTS.md")
    parser.add_argument("--section", required=True, help="heading of the tables of one model, at several sizes")
    parser.add_argument("--title", help="above the picture (default: the heading)")
    parser.add_argument("--out", required=True, type=Path, help="the SVG to write")
    arguments = parser.parse_args(argv)
    if not arguments.results.is_file():
        raise UserError(f"--results {arguments.results} does not exist; correct the path")
    points = points_of(arguments.results.read_text(encoding="utf-8"), arguments.section)
    with atomic_write(arguments.out) as stream:
        stream.write(picture(points, arguments.title or arguments.section))
    return 0


if __name__ == "__main__":
    main()
