"""The figures of speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dirnet.report.drawing import BESIDE, drawing, log_axis, svg
from dirnet.report.palette import Palette
from dirnet.report.results import Row, rtf_text


def real_time_factors(rows: list[Row], palette: Palette) -> str | None:
    """The real-time factor of every model as a bar, whiskers from its fastest call to the 95th percentile of all.

    None where none was measured.
    """
    timed = [row for row in rows if row.rtf]
    if not timed:
        return None
    with drawing(6.4, 0.5 + 0.35 * len(timed)) as (figure, axes):
        for place, row in enumerate(timed):
            low, high = spread(row)
            whiskers = {"xerr": [[row.rtf - low], [high - row.rtf]], "capsize": 3, "error_kw": {"elinewidth": 0.8}}
            axes.barh(place, row.rtf, **palette.model(row.name).bar(), **whiskers)
            axes.annotate(rtf_text(row.rtf), (high, place), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(timed)), [row.name for row in timed])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.ticklabel_format(axis="x", style="plain")
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("real-time factor, s of computation per s of audio, median (lower is faster)")
        return svg(figure)


def spread(row: Row) -> tuple[float, float]:
    """Real-time factors of the fastest call and of the 95th percentile."""
    calls = row.timing["us_per_frame"]
    return row.rtf * calls["min"] / calls["p50"], row.rtf * calls["p95"] / calls["p50"]


def speed_against_chunk(rows: list[Row], palette: Palette) -> str | None:
    """Microseconds per frame by outputs per call, hot caches: each compressed model by its fastest engine, and the
    fastest dense engine of each type; None where fewer than two chunks were measured.
    """
    curves = [curve for row in rows for curve in _curves(row, palette)]
    chunks = sorted({chunk for _, _, points in curves for chunk in points})
    if len(chunks) < 2:
        return None
    with drawing(6.4, 3.8) as (figure, axes):
        for name, look, points in curves:
            axes.plot(points.keys(), points.values(), label=name, markersize=6, **look)
        axes.set_xscale("log", base=2)
        axes.set_xticks(chunks, map(str, chunks))
        log_axis(axes, "y")
        axes.set_xlabel("outputs per call T (log scale; the longer, the more delay)")
        axes.set_ylabel("µs per output frame, median (log scale)")
        axes.legend(**BESIDE)
        return svg(figure)


def _curves(row: Row, palette: Palette) -> Iterator[tuple[str, dict[str, Any], dict[int, float]]]:
    """Label, look and points of what a model adds to `speed_against_chunk`."""
    lines = [line for line in row.timing.get("engines", []) if line.get("cache", "hot") == "hot"]
    if row.groups and not row.dense and lines:
        yield row.name, {"linewidth": 1, **palette.model(row.name).curve()}, fastest(lines)
    if not row.groups and not row.dense and "baseline" in row.timing:  # the model that the others were made from
        for dtype in dict.fromkeys(line["dtype"] for line in lines):
            name = f"fastest dense {dtype}"
            look = palette.method(row.method if dtype == "fp32" else name).curve()
            yield name, {"linewidth": 2, **look}, fastest([line for line in lines if line["dtype"] == dtype])


def fastest(lines: list[dict[str, Any]]) -> dict[int, float]:
    """Outputs per call -> least median time per frame of these engines, by rising chunk."""
    found: dict[int, float] = {}
    for line in sorted(lines, key=lambda line: line["chunk"]):
        time = line["us_per_frame"]["p50"]
        found[line["chunk"]] = min(time, found.get(line["chunk"], time))
    return found
