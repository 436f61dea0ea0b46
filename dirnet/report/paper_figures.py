"""The paper's tables and figure as pictures: its own values in one panel, the measured ones in another, never in one.

Methods are told apart by marker and line style, so that a print in black and white can be read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

from dirnet.report.palette import Palette  # noqa: E402
from dirnet.report.paper_rows import KNOWN, Measured  # noqa: E402
from dirnet.report.published import published  # noqa: E402

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
NAMES = {"vartheta": r"$\Theta^0$", "gamma": r"$\gamma$"}
DPI = 150
Points = dict[str, list[tuple[float, float]]]  # by method, (x, error)


def picture(what: str, rows: Sequence[Measured], metric: str) -> bytes:
    """The PNG of `what` with the measured `rows`."""
    with plt.rc_context(STYLE):
        figure = {"fig3": _settings, "table3": _widths}.get(what, _ratios)(what, rows, metric)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI)
        plt.close(figure)
    return stream.getvalue()


def _ratios(what: str, rows: Sequence[Measured], metric: str):
    paper = published(what)
    theirs: Points = {}
    for _, method, _, ratio, _, error in paper["rows"]:
        theirs.setdefault(method, []).append((ratio, error))
    ours: Points = {}
    for row in rows:
        ours.setdefault("dense" if row.ratio == 1 else KNOWN.get(row.method, row.method), []).append(
            (row.ratio, row.error))  # fmt: skip
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    dense = sorted({error for error in (row.error for row in rows if row.control)})
    palette, unit = _palette([*theirs, *ours]), " %" * (what == "table2")
    _curves(left, theirs, palette, "R, times fewer parameters", paper["metric"] + unit)
    _curves(right, ours, palette, "R, times fewer parameters", metric + unit)
    for level in dense:
        right.axhline(level, color="#000000", linewidth=0.8, linestyle=(0, (1, 3)))
    left.set_title(f"Paper ({paper['where'].split(',')[0]})")
    right.set_title("Measured here")
    return figure


def _widths(what: str, rows: Sequence[Measured], metric: str):
    paper = published(what)
    sizes = [(float(params.rstrip("M")), svd, dirnet) for _, params, svd, dirnet in paper["rows"]]
    theirs = {"LSTM-SVD": [(p, svd) for p, svd, _ in sizes], "DirNet": [(p, dirnet) for p, _, dirnet in sizes]}
    ours: Points = {}
    for row in rows:
        for name in ("svd", "dirnet") if row.method == "dense" else (row.method,):
            ours.setdefault(KNOWN[name], []).append((row.params / 1e6, row.error))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for axes, points, title in ((left, theirs, "Paper (Table 3)"),
                                (right, ours, "Measured here, not fine-tuned")):  # fmt: skip
        _curves(axes, points, _palette([]), "million parameters", "WER %")
        axes.set_title(title)
    return figure


def _settings(what: str, rows: Sequence[Measured], metric: str):
    paper = {name: rest for name, *rest in published(what)["rows"]}
    look = _palette([]).method(KNOWN["dirnet"]).curve()
    figure, grid = plt.subplots(2, 2, figsize=(8, 5), layout="constrained", height_ratios=(1, 2.2))
    for column, (name, (span, chosen, said)) in enumerate(paper.items()):
        told, axes = grid[0][column], grid[1][column]
        told.set_xscale("log")
        told.set_xlim(*span)
        told.set_yticks([])
        told.axvline(chosen, color="black", linestyle="--")
        told.set_xlabel(NAMES[name])
        told.text(0.02, 0.9, _folded(f"“{said}”", 34), transform=told.transAxes, va="top")
        told.set_title(f"Paper: text of Sec. 4.3, chosen {chosen:g} (dashed)", fontsize=9)
        points = sorted((row.x, row.error) for row in rows if row.method == name)
        axes.plot([x for x, _ in points], [y for _, y in points], markersize=4, **look)
        axes.set_xscale("log")
        axes.set_xlim(span[0] / 2, span[1] * 2)
        axes.set_ylim(0, 1)
        axes.set_xlabel(NAMES[name])
        axes.set_title("Measured here", fontsize=9)
    grid[1][0].set_ylabel("F-score of aligned words")
    return figure


def _curves(axes, points: Points, palette: Palette, across: str, up: str) -> None:
    for name, values in points.items():
        values = sorted(values)
        look = palette.method(name).curve()
        axes.plot([x for x, _ in values], [y for _, y in values], label=name, markersize=5, **look)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(frameon=False)


def _palette(names: Iterable[str]) -> Palette:
    """The paper's methods first, so that a method looks alike in both panels and in all figures."""
    return Palette({name: name for name in [*KNOWN.values(), *names]})


def _folded(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word} "
    return "\n".join(lines)
