"""The figures of accuracy, size and training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dirnet.compression.picture import heat_map
from dirnet.report.drawing import COLORS, drawing, filled, marked, svg
from dirnet.report.results import Row

PANELS = 3  # a line
STATISTICS = (("per", "errors of the best path, %", 100), ("loss_ctc", "CTC loss", 1), ("smbr_acc", "accuracy, %", 100))


def size_against_error(rows: list[Row]) -> str | None:
    """Stored megabytes (log axis) against the error rate with its interval, a curve a method; None without scores."""
    scored = [row for row in rows if row.per]
    if not scored:
        return None
    with drawing(6.4, 3.6) as (figure, axes):
        methods = dict.fromkeys(row.method for row in scored)
        for place, method in enumerate(methods):
            points = sorted((row for row in scored if row.method == method), key=lambda row: row.bytes)
            rates = [row.per for row in points]
            spread = [[rate.percent - rate.low for rate in rates], [rate.high - rate.percent for rate in rates]]
            axes.errorbar([row.bytes / 1e6 for row in points], [rate.percent for rate in rates], yerr=spread, capsize=3,
                          markersize=7, linewidth=1, elinewidth=0.8, label=method, **marked(place))  # fmt: skip
        axes.set_xscale("log")
        sizes = [math.log2(row.bytes / 1e6) for row in scored]
        ticks = [2.0**power for power in range(math.floor(min(sizes)), math.ceil(max(sizes)) + 1)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("stored size, MB with indices (log scale)")
        axes.set_ylabel(f"{scored[0].rate}, % (95 % interval)")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return svg(figure)


def atoms_and_density(rows: list[Row]) -> str | None:
    """Atoms and density of every group of the compressed models, side by side; None without compressed models."""
    compressed = [row for row in rows if row.groups]
    if not compressed:
        return None
    with drawing(6.8, 4.4) as (figure, axes):
        axes.remove()
        upper, lower = figure.subplots(2, 1, sharex=True)
        names = [group["name"] for group in compressed[0].groups]
        width = 0.8 / len(compressed)
        for position, row in enumerate(compressed):
            places = [index + position * width - 0.4 + width / 2 for index in range(len(row.groups))]
            look = {"width": width, "label": row.name, **filled(position)}
            upper.bar(places, [group["atoms"] or 0 for group in row.groups], **look)
            lower.bar(places, [100 * group["density"] for group in row.groups], **look)
        upper.set_ylabel("atoms p")
        lower.set_ylabel("density of Z, %")
        lower.set_xticks(range(len(names)), names, rotation=20, ha="right")
        upper.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
        return svg(figure)


def code_heat_maps(row: Row) -> str | None:
    """|Z| of every group of a model, atoms down, the most used first; None where no code is zero."""
    if all(codes.density == 1 for codes in row.codes):
        return None
    columns = min(len(row.codes), PANELS)
    lines = -(-len(row.codes) // columns)
    with drawing(2.6 * columns, 1.7 * lines) as (figure, axes):
        axes.remove()
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel, codes in zip(panels, row.codes, strict=False):
            heat_map(panel, codes.cells, codes.shape)
            panel.set_title(f"{codes.name}: {codes.density:.0%} kept", fontsize=9)
            panel.grid(False)
        for panel in panels[len(row.codes) :]:
            panel.remove()
        return svg(figure)


def baseline_curves(stages: Sequence[tuple[str, list[dict[str, Any]]]]) -> str | None:
    """The dense model's road: errors, loss and sMBR's expected accuracy of each stage; None without any.

    stages: name and `curves.json` of every training in turn.
    """
    stages = [(name, curves) for name, curves in stages if curves]
    if not stages:
        return None
    told = {key for _, curves in stages for record in curves for key in record["dev"]}
    kinds = [kind for kind in STATISTICS if kind[0] in told]
    if not kinds:
        return None
    with drawing(3.1 * len(kinds), 2.7) as (figure, axes):
        axes.remove()
        for panel, (key, title, scale) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            start = 0
            for place, (name, curves) in enumerate(stages):
                epochs = [start + record["epoch"] for record in curves]
                for phase, line in (("dev", "-"), ("train", ":")):
                    values = [scale * record.get(phase, {}).get(key, math.nan) for record in curves]
                    if not all(map(math.isnan, values)):
                        panel.plot(epochs, values, line, label=f"{name}, {phase}", markersize=3, linewidth=1,
                                   **marked(place))  # fmt: skip
                start = epochs[-1]
            panel.set_title(title, fontsize=9)
            panel.set_xlabel("epoch", fontsize=9)
            panel.legend(frameon=False, fontsize=7)
        return svg(figure)


def training_curves(rows: list[Row]) -> str | None:
    """Training (dotted) and development loss of fine-tuning, a panel a model; None where no stage left curves."""
    trained = [row for row in rows if row.curves]
    if not trained:
        return None
    columns = min(len(trained), PANELS)
    lines = -(-len(trained) // columns)
    with drawing(2.6 * columns, 2.2 * lines) as (figure, axes):
        axes.remove()
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel, row in zip(panels, trained, strict=False):
            epochs = [record["epoch"] for record in row.curves]
            dev, train = ([record[phase].get("loss", math.nan) for record in row.curves] for phase in ("dev", "train"))
            panel.plot(epochs, dev, label="dev", color=COLORS[0], marker="o", markersize=2.5, linewidth=1)
            panel.plot(epochs, train, label="train", color=COLORS[1], linestyle=":", linewidth=1.5)
            panel.set_title(row.name, fontsize=9)
        for panel in panels[len(trained) :]:
            panel.remove()
        panels[0].legend(frameon=False)
        figure.supxlabel("epoch", fontsize=9)
        figure.supylabel("loss per utterance", fontsize=9)
        return svg(figure)
