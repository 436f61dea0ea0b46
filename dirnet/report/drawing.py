"""The look of the report's figures: inline SVG, told apart in black and white by marker, line style and hatch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first
from matplotlib.figure import Figure  # noqa: E402

COLORS = ("#1b4965", "#ca6702", "#2a9d8f", "#9b2226", "#6a4c93", "#7f7f7f")
MARKERS = "osD^vPX*<>"  # of other lengths than the colours, so that no pair comes twice
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
OUTLINE = {"edgecolor": "black", "linewidth": 0.4}


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, plt.Axes]]:
    """A figure of that many inches and its axes, in the report's style; closed at the end."""
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
             "font.family": "sans-serif", "axes.grid": True, "grid.alpha": 0.25, "svg.hashsalt": "dirnet"}  # fmt: skip
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def svg(figure: Figure) -> str:
    """The figure as an SVG element."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def filled(place: int) -> dict[str, Any]:
    """Colour and hatch of the bar number `place`."""
    return {"color": COLORS[place % len(COLORS)], "hatch": HATCHES[place % len(HATCHES)], **OUTLINE}


def marked(place: int) -> dict[str, Any]:
    """Colour and marker of the series number `place`."""
    return {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}
