"""The figures of accuracy, size and training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dirnet.compression.picture import heat_map
from dirnet.report.drawing import BESIDE, drawing, log_axis, svg
from dirnet.report.palette import Palette
from dirnet.report.results import Row

PANELS = 3  # a line
PHASES = {"dev": {"linestyle": "-"}, "train": {"linestyle": ":", "markerfacecolor": "none"}}  # one epoch has no line
STATISTICS = (
    ("per", "errors of the best path, %", 100),
    ("loss_ctc", "CTC loss per utterance, nats", 1),
    ("smbr_acc", "expected accuracy, %", 100),
)


def size_against_error(rows: list[Row], palette: Palette) -> str | None:
    """Stored megabytes (log axis) against the error rate with its interval, a curve a method; None without scores."""
    scored = [row for row in rows if row.per]
    if not scored:
        return None
    with drawing(6.4, 3.6) as (figure, axes):
        for method in dict.fromkeys(row.method for row in scored):
            points = sorted((row for row in scored if row.method == method), key=lambda row: row.bytes)
            rates = [row.per for row in points]
            spread = [[rate.percent - rate.low for rate in rates], [rate.high - rate.percent for rate in rates]]
            look = palette.method(method).curve() | {"markersize": 7, "linewidth": 1, "elinewidth": 0.8, "capsize": 3}
            axes.errorbar([row.bytes / 1e6 for row in points], [rate.percent for rate in rates], yerr=spread,
                          label=method, **look)  # fmt: skip
        log_axis(axes, "x")
        axes.set_xlabel("stored size, MB with indices (log scale)")
        axes.set_ylabel(f"{scored[0].rate}, % (95 % interval)")
        axes.legend(**BESIDE)
        return svg(figure)


def atoms_and_density(rows: list[Row], palette: Palette) -> str | None:
    """Atoms and density of every group of the compressed models, side by side; None without compressed models."""
    compressed = [row for row in rows if row.groups and not row.dense]
    if not compressed:
        return None
    with drawing(6.8, 4.4) as (figure, axes):
        axes.remove()
        upper, lower = figure.subplots(2, 1, sharex=True)
        names = [group["name"].removeprefix("rnn.") for group in compressed[0].groups]
        width = 0.8 / len(compressed)
        for position, row in enumerate(compressed):
            places = [index + position * width - 0.4 + width / 2 for index in range(len(row.groups))]
            look = {"width": width, "label": row.name, **palette.model(row.name).bar()}
            upper.bar(places, [group["atoms"] or 0 for group in row.groups], **look)
            lower.bar(places, [100 * group["density"] for group in row.groups], **look)
        upper.set_ylabel("atoms p")
        lower.set_ylabel("density of Z, %")
        lower.set_xticks(range(len(names)), names)
        lower.set_xlabel("group of matrices")
        figure.legend(*upper.get_legend_handles_labels(), frameon=False, loc="outside right center")
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
            panel.set_title(f"{codes.name}: {codes.density:.0%} kept")
            panel.grid(False)
        for panel in panels[len(row.codes) :]:
            panel.remove()
        figure.supylabel("atoms (rows of Z)")
        figure.supxlabel("gates (columns of Z)")
        return svg(figure)


def baseline_curves(stages: Sequence[tuple[str, list[dict[str, Any]]]], palette: Palette) -> str | None:
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
            for name, curves in stages:
                epochs = [start + record["epoch"] for record in curves]
                for phase, line in PHASES.items():
                    values = [scale * record.get(phase, {}).get(key, math.nan) for record in curves]
                    if not all(map(math.isnan, values)):
                        look = palette.method(name).curve() | {"linewidth": 1, "markersize": 4} | line
                        panel.plot(epochs, values, label=f"{name}, {phase}", **look)
                start = epochs[-1]
            panel.set_ylabel(title)
            panel.set_xlabel("epoch")
            panel.locator_params(axis="x", integer=True, min_n_ticks=1)
            panel.legend(frameon=False)
        return svg(figure)


def training_curves(rows: list[Row], palette: Palette) -> str | None:
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
            look = palette.model(row.name).curve() | {"linewidth": 1, "markersize": 4}
            panel.plot(epochs, dev, label="dev", **look | PHASES["dev"])
            panel.plot(epochs, train, label="train", **look | PHASES["train"])
            panel.set_title(row.name)
            panel.locator_params(axis="x", integer=True, min_n_ticks=1)
        for panel in panels[len(trained) :]:
            panel.remove()
        panels[0].legend(frameon=False)
        figure.supxlabel("epoch")
        figure.supylabel("loss per utterance")
        return svg(figure)
