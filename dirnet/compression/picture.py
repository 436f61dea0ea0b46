"""`compression.png`: where the codes are, and what every group costs and loses; readable in black and white."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dirnet.nn.coded import CodedMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELLS = (60, 200)  # of a heat map, at most
PER_LINE = 3
SHORT = 16  # characters of a name that may stand aslant below its bar
TYPE = 9  # points, the smallest
BAR = {"edgecolor": "black", "linewidth": 0.6}


def picture(model: nn.Module, report: dict[str, Any]) -> bytes:
    """The PNG of a compressed `model` and its `report`, both of `compress`."""
    from matplotlib import rc_context  # half a second, and needed nowhere else
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    with rc_context({"font.size": TYPE, "xtick.labelsize": TYPE, "ytick.labelsize": TYPE, "legend.fontsize": TYPE}):
        FigureCanvasAgg(drawn(model, report)).print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def drawn(model: nn.Module, report: dict[str, Any]) -> Figure:
    """The figure of `picture`.

    Per group a heat map of |Z|: atoms down, those used most on top, columns across, each cell the mean of the codes in
    it, black the largest. Below, per group: atoms, density, relative error, and size against the dense one.
    """
    from matplotlib.figure import Figure

    rows = report["groups"]
    codes = [coded.code_matrix().detach() for coded in model.modules() if isinstance(coded, CodedMatrix)]
    lines = -(-len(rows) // PER_LINE)
    names = _names(rows)
    longest = max(map(len, names))
    heights = (0.6 + 2.0 * lines, 5.6 if longest <= SHORT else 4.6 + 0.085 * longest)
    figure = Figure(figsize=(10, 0.3 + sum(heights)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights, hspace=0.03)
    small, dense = report["compressed"], report["dense"]
    figure.suptitle(
        f"{report['method']} at {report['size']}: {small['params']:,} of {dense['params']:,} parameters, "
        f"{small['bytes']:,} bytes, relative error {report['relative_error']:.3f}",
        fontsize=11,
    )
    panels = upper.subplots(lines, -(-len(rows) // lines), squeeze=False).flatten()
    for panel, row, matrix in zip(panels, rows, codes, strict=False):
        heat_map(panel, thumbnail(matrix), tuple(matrix.shape))
        panel.set_title(f"{row['name']}: |Z| {matrix.shape[0]} x {matrix.shape[1]}", fontsize=TYPE)
    for panel in panels[len(rows) :]:
        panel.remove()
    upper.supylabel("atoms, the most used first", fontsize=TYPE)
    upper.supxlabel(
        "columns of Z: the gates of the layer, then those of the layer above\n"
        "a cell is the mean |Z| of the codes in it; black: the largest of the group, white: zero",
        fontsize=TYPE,
    )
    _bars(lower.subplots(2, 2, sharex=longest > SHORT).flatten(), rows, names)
    return figure


def thumbnail(codes: Tensor, cells: tuple[int, int] = CELLS) -> Tensor:
    """Mean |codes| (p, M) over at most `cells` equal cells, the rows by falling sum."""
    strengths = codes.abs().float()
    strengths = strengths[strengths.sum(1).argsort(descending=True, stable=True)]
    size = [min(have, most) for have, most in zip(strengths.shape, cells, strict=True)]
    return torch.nn.functional.adaptive_avg_pool2d(strengths[None], size)[0]


def heat_map(panel: Axes, cells: Tensor, shape: tuple[int, int]) -> None:
    """Draw `thumbnail` codes of a matrix of `shape` (p, M) on `panel`, black the largest."""
    atoms, columns = shape
    shades = cells.sqrt().numpy()  # the eye tells apart what is weak, too
    panel.imshow(shades, cmap="gray_r", vmin=0, aspect="auto", interpolation="nearest", extent=(0, columns, atoms, 0))
    panel.set_xticks([0, columns // 2, columns])
    panel.set_yticks([0, atoms])


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """The groups without the name of their RNN, where that is one for all."""
    names = [row["name"] for row in rows]
    short = [name.rsplit(".", 1)[-1] for name in names]
    return short if len(set(short)) == len(names) else names


def _bars(panels: Iterable[Axes], rows: list[dict[str, Any]], names: list[str]) -> None:
    """A panel each for atoms, density, relative error and size; long `names` stand below the lower two only."""
    atoms, density, error, size = panels
    places = range(len(rows))
    none = ["none" if row["atoms"] is None else str(row["atoms"]) for row in rows]
    _bar(atoms, places, [row["atoms"] or 0 for row in rows], none, color="0.55")
    percent = [100 * row["density"] for row in rows]
    _bar(density, places, percent, [f"{value:.1f}" for value in percent], color="0.85", hatch="//")
    errors = [row["relative_error"] for row in rows]
    _bar(error, places, errors, [f"{value:.3f}" for value in errors], color="white", hatch="xx")
    before = [4 * row["rows"] * row["columns"] / 1e3 for row in rows]
    after = [row["bytes"] / 1e3 for row in rows]
    for label, values, shade, shift in (("dense", before, "white", -0.2), ("compressed", after, "0.3", 0.2)):
        _bar(size, [place + shift for place in places], values, [f"{value:,.0f}" for value in values], width=0.4,
             color=shade, label=label)  # fmt: skip
    size.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    atoms.set_ylabel("atoms p in the dictionary")
    density.set_ylabel("density of Z, % not zero")
    error.set_ylabel("relative error (0 to 1)")
    size.set_ylabel("size with indices, kB")
    turn = {"rotation": 20, "ha": "right"} if max(map(len, names)) <= SHORT else {"rotation": 90}
    for panel in (atoms, density, error, size):
        panel.set_xticks(places, names, **turn)
        if "ha" in turn or panel in (error, size):
            panel.set_xlabel("group of matrices")
        panel.spines[["top", "right"]].set_visible(False)


def _bar(panel: Axes, places: Iterable[float], values: list[float], told: list[str], **look: Any) -> None:
    """Bars with what they stand for on top."""
    panel.bar_label(panel.bar(places, values, **BAR, **look), told, padding=1)
    panel.set_ylim(0, max(panel.get_ylim()[1], 1.12 * max(values)) if any(values) else 1)
