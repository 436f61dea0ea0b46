"""The figures of the report as inline SVG; distinguishable in black and white by marker, line style and hatch."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first
from matplotlib.figure import Figure  # noqa: E402

from dirnet.report.results import Row  # noqa: E402

MARKERS = "osD^vPX*<>"
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")  # not as many as colours, so that no pair comes twice
COLORS = ("#1b4965", "#ca6702", "#2a9d8f", "#9b2226", "#6a4c93", "#7f7f7f")


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Figure, plt.Axes]]:
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
             "font.family": "sans-serif", "axes.grid": True, "grid.alpha": 0.25, "svg.hashsalt": "dirnet"}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg"):]


def size_against_error(rows: list[Row]) -> str | None:
    """Stored megabytes (log axis) against PER with its interval, one marker a model; None where nothing is scored."""
    scored = [row for row in rows if row.per]
    if not scored:
        return None
    with _drawing(6.4, 3.6) as (figure, axes):
        for place, row in enumerate(scored):
            spread = [[row.per.percent - row.per.low], [row.per.high - row.per.percent]]
            axes.errorbar(row.bytes / 1e6, row.per.percent, yerr=spread, capsize=3, label=row.name,
                          color=COLORS[place % len(COLORS)], marker=MARKERS[place % len(MARKERS)], linestyle="none",
                          markersize=7)
        axes.set_xscale("log")
        sizes = [math.log2(row.bytes / 1e6) for row in scored]
        ticks = [2.0**power for power in range(math.floor(min(sizes)), math.ceil(max(sizes)) + 1)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("stored size, MB with indices (log scale)")
        axes.set_ylabel("phone error rate, % (95 % interval)")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure)


def atoms_and_density(rows: list[Row]) -> str | None:
    """Atoms and density of every group of the compressed models, side by side; None without compressed models."""
    compressed = [row for row in rows if row.groups]
    if not compressed:
        return None
    with _drawing(6.8, 4.4) as (figure, axes):
        axes.remove()
        upper, lower = figure.subplots(2, 1, sharex=True)
        names = [group["name"] for group in compressed[0].groups]
        width = 0.8 / len(compressed)
        for position, row in enumerate(compressed):
            places = [index + position * width - 0.4 + width / 2 for index in range(len(row.groups))]
            look = {"width": width, "color": COLORS[position % len(COLORS)], "edgecolor": "black", "linewidth": 0.4,
                    "hatch": HATCHES[position % len(HATCHES)], "label": row.name}
            upper.bar(places, [group["atoms"] or 0 for group in row.groups], **look)
            lower.bar(places, [100 * group["density"] for group in row.groups], **look)
        upper.set_ylabel("atoms p")
        lower.set_ylabel("density of Z, %")
        lower.set_xticks(range(len(names)), names, rotation=20, ha="right")
        upper.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
        return _svg(figure)


def training_curves(rows: list[Row]) -> str | None:
    """Training (dotted) and development loss by epoch, a panel a model; None where no stage left curves."""
    trained = [row for row in rows if row.curves]
    if not trained:
        return None
    columns = min(len(trained), 3)
    lines = -(-len(trained) // columns)
    with _drawing(2.6 * columns, 2.2 * lines) as (figure, axes):
        axes.remove()
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel, row in zip(panels, trained, strict=False):
            epochs = [record["epoch"] for record in row.curves]
            dev, train = ([record[phase].get("loss", math.nan) for record in row.curves] for phase in ("dev", "train"))
            panel.plot(epochs, dev, label="dev", color=COLORS[0], marker="o", markersize=2.5, linewidth=1)
            panel.plot(epochs, train, label="train", color=COLORS[1], linestyle=":", linewidth=1.5)
            panel.set_title(row.name, fontsize=9)
        for panel in panels[len(trained):]:
            panel.remove()
        panels[0].legend(frameon=False)
        figure.supxlabel("epoch", fontsize=9)
        figure.supylabel("loss per utterance", fontsize=9)
        return _svg(figure)


def real_time_factors(rows: list[Row]) -> str | None:
    """The real-time factor of every model as a bar; None where none was measured."""
    timed = [row for row in rows if row.rtf]
    if not timed:
        return None
    with _drawing(6.4, 0.5 + 0.35 * len(timed)) as (figure, axes):
        for place, row in enumerate(timed):
            axes.barh(place, row.rtf, color=COLORS[place % len(COLORS)], edgecolor="black", linewidth=0.4,
                      hatch=HATCHES[place % len(HATCHES)])
            axes.annotate(f" {row.rtf:.2g}", (row.rtf, place), va="center", fontsize=8)
        axes.set_yticks(range(len(timed)), [row.name for row in timed])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axes.set_xlabel("real-time factor, one thread (lower is faster)")
        return _svg(figure)
