"""What a method looks like: one colour, marker, hatch and line in all figures of a page, in black and white too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.colors import to_rgb

# M. A. Petroff's ten colours (arXiv 2107.02270), which colour-blind readers tell apart.
COLORS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MARKERS = "osD^vPX*<>p"  # one more than the colours, so that no pair comes twice
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--", "||", "**", "OO")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
OUTLINE = {"edgecolor": "black", "linewidth": 0.4}
FILLS = ("full", "none", "left", "top")  # markers of the first, second, ... size of a method
SHADES = (1, 0.6, 0.35, 0.15)  # bars of these


class Look(NamedTuple):
    """How one method is drawn, or one model of it."""

    color: str
    marker: str
    hatch: str
    line: Any
    size: int = 0

    def bar(self) -> dict[str, Any]:
        """Arguments of a bar."""
        shade = SHADES[self.size % len(SHADES)]
        return {"color": [shade * part + 1 - shade for part in to_rgb(self.color)], "hatch": self.hatch, **OUTLINE}

    def curve(self) -> dict[str, Any]:
        """Arguments of a curve."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line,
                "fillstyle": FILLS[self.size % len(FILLS)]}  # fmt: skip


class Palette:
    """The looks of a page: methods in the order of its models, one that no model has after these when first asked for.

    The sizes of a method differ in the shade of bars and the filling of markers. methods: of each model by its name.
    """

    def __init__(self, methods: Mapping[str, str]) -> None:
        self._models: dict[str, list[str]] = {}
        for model, method in methods.items():
            self._models.setdefault(method, []).append(model)

    def method(self, name: str) -> Look:
        """The look of a method."""
        self._models.setdefault(name, [])
        place = list(self._models).index(name)
        return Look(*(kind[place % len(kind)] for kind in (COLORS, MARKERS, HATCHES, LINES)))

    def model(self, name: str) -> Look:
        """The look of a model of the page."""
        method = next(method for method, models in self._models.items() if name in models)
        return self.method(method)._replace(size=self._models[method].index(name))
