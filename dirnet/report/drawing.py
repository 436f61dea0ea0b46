"""The style of the report's figures, inline SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first
from matplotlib.figure import Figure  # noqa: E402

STEPS = [step * 10.0**power for power in range(-4, 7) for step in (1, 2, 5)]  # ticks of a logarithmic axis
TYPE = 9  # points; 12 pixels on the page
BESIDE = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1, 0.5)}  # a legend to the right of its axes


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, plt.Axes]]:
    """A figure of that many inches and its axes, in the report's style; closed at the end."""
    style = {"font.size": TYPE, "axes.titlesize": TYPE, "legend.fontsize": TYPE, "figure.labelsize": TYPE,
             "axes.labelsize": TYPE, "xtick.labelsize": TYPE, "ytick.labelsize": TYPE, "font.family": "sans-serif",
             "svg.fonttype": "none", "svg.hashsalt": "dirnet", "axes.spines.top": False, "axes.spines.right": False,
             "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.25}  # fmt: skip
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


def log_axis(axes: plt.Axes, name: str) -> None:
    """The axis "x" or "y" becomes logarithmic and reaches from tick to tick, at 1, 2 and 5 times the powers of ten."""
    axes.set(**{f"{name}scale": "log"})
    low, high = getattr(axes, f"get_{name}lim")()
    low, high = max(step for step in STEPS if step <= low), min(step for step in STEPS if step >= high)
    ticks = [step for step in STEPS if low <= step <= high]
    labels = [f"{tick:,.9g}" for tick in ticks]
    axes.set(**{f"{name}ticks": ticks, f"{name}ticklabels": labels, f"{name}lim": (low, high)})
    axes.minorticks_off()
