"""`compression.png`: where the codes are, and what every group costs and loses; readable in black and white."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dirnet.nn.coded import CodedMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = (60, 200)  # of a heat map, at most
PER_LINE = 3


def picture(model: nn.Module, report: dict[str, Any]) -> bytes:
    """The PNG of a compressed `model` and its `report`, both of `compress`.

    Per group a heat map of |Z|: atoms down, those used most on top, columns across, each cell the mean of the codes in
    it, black the largest. Below, per group: atoms, density, relative error, and size against the dense one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, and needed nowhere else
    from matplotlib.figure import Figure

    rows = report["groups"]
    codes = [coded.code_matrix().detach() for coded in model.modules() if isinstance(coded, CodedMatrix)]
    lines = -(-len(rows) // PER_LINE)
    per_line = -(-len(rows) // lines)
    figure = Figure(figsize=(10, 1.9 * lines + 3.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.9 * lines, 3.0))
    small, dense = report["compressed"], report["dense"]
    figure.suptitle(
        f"{report['method']} at {report['size']}: {small['params']:,} of {dense['params']:,} parameters, "
        f"{small['bytes']:,} bytes, relative error {report['relative_error']:.3f}",
        fontsize=11,
    )
    panels = upper.subplots(lines, per_line, squeeze=False).flatten()
    for panel, row, matrix in zip(panels, rows, codes, strict=False):
        heat_map(panel, shrunk(matrix), tuple(matrix.shape))
        panel.set_title(f"{row['name']}: |Z| {matrix.shape[0]} x {matrix.shape[1]}", fontsize=9)
    for panel in panels[len(rows) :]:
        panel.remove()
    upper.supylabel("rows of Z (atoms), the most used first", fontsize=8)
    upper.supxlabel("columns: the gates of the layer, then those of the layer above", fontsize=8)
    _bars(lower.subplots(1, 4), rows)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def shrunk(codes: Tensor, cells: tuple[int, int] = CELLS) -> Tensor:
    """Mean |codes| (p, M) over at most `cells` equal cells, the rows by falling sum."""
    strengths = codes.abs().float()
    strengths = strengths[strengths.sum(1).argsort(descending=True, stable=True)]
    size = [min(have, most) for have, most in zip(strengths.shape, cells, strict=True)]
    return torch.nn.functional.adaptive_avg_pool2d(strengths[None], size)[0]


def heat_map(panel: Axes, cells: Tensor, shape: tuple[int, int]) -> None:
    """Draw `shrunk` codes of a matrix of `shape` (p, M) on `panel`, black the largest."""
    atoms, columns = shape
    shades = cells.sqrt().numpy()  # the eye tells apart what is weak, too
    panel.imshow(shades, cmap="gray_r", vmin=0, aspect="auto", interpolation="nearest", extent=(0, columns, atoms, 0))
    panel.set_xticks([0, columns // 2, columns])
    panel.set_yticks([0, atoms])
    panel.tick_params(labelsize=7)


def _bars(panels: Sequence, rows: list[dict[str, Any]]) -> None:
    names, places = [row["name"].rsplit(".", 1)[-1] for row in rows], range(len(rows))
    look = {"edgecolor": "black", "linewidth": 0.6}
    kinds = (
        ("atoms p", [row["atoms"] or 0 for row in rows], "0.55", ""),
        ("density of Z, %", [100 * row["density"] for row in rows], "0.85", "//"),
        ("relative error", [row["relative_error"] for row in rows], "white", "xx"),
    )
    for panel, (title, values, shade, hatch) in zip(panels[:3], kinds, strict=True):
        bars = panel.bar(places, values, color=shade, hatch=hatch, **look)
        told = [f"{value:.3g}" for value in values]
        if title.startswith("atoms"):
            told = ["none" if row["atoms"] is None else text for text, row in zip(told, rows, strict=True)]
        panel.bar_label(bars, told, fontsize=7, padding=1)
        panel.set_title(title, fontsize=9)
        panel.set_ylim(0, 1.1 * max(values) or 1)
    sizes = panels[3]
    dense = [4 * row["rows"] * row["columns"] / 1e3 for row in rows]
    small = [row["bytes"] / 1e3 for row in rows]
    for label, values, shade, shift in (("dense", dense, "white", -0.2), ("compressed", small, "0.3", 0.2)):
        bars = sizes.bar([place + shift for place in places], values, width=0.4, color=shade, label=label, **look)
        sizes.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=6, padding=1)
    sizes.set_title("size, kB with indices", fontsize=9)
    sizes.legend(fontsize=7, frameon=False, loc="upper center", ncols=2)
    sizes.set_ylim(0, 1.2 * max(dense + small))
    for panel in panels:
        panel.set_xticks(places, names, rotation=35, ha="right", fontsize=7)
        panel.tick_params(axis="y", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
