"""The figures of speed."""

from __future__ import annotations

from typing import Any

from dirnet.report.drawing import LINES, drawing, filled, marked, svg
from dirnet.report.results import Row


def real_time_factors(rows: list[Row]) -> str | None:
    """The real-time factor of every model as a bar, whiskers from its fastest call to the 95th percentile of all.

    None where none was measured.
    """
    timed = [row for row in rows if row.rtf]
    if not timed:
        return None
    with drawing(6.4, 0.5 + 0.35 * len(timed)) as (figure, axes):
        for place, row in enumerate(timed):
            low, high = spread(row.timing)
            whiskers = {"xerr": [[row.rtf - low], [high - row.rtf]], "capsize": 3, "error_kw": {"elinewidth": 0.8}}
            axes.barh(place, row.rtf, **filled(place), **whiskers)
            axes.annotate(f"{row.rtf:.2g}", (high, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(range(len(timed)), [row.name for row in timed])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axes.set_xlabel("real-time factor, one thread (lower is faster)")
        return svg(figure)


def spread(timing: dict[str, Any]) -> tuple[float, float]:
    """Real-time factors of the fastest call and of the 95th percentile; the mean itself where these are unknown.

    The mean may lie beyond the percentile, where a few calls were interrupted: then it is the upper end, too.
    """
    rtf, calls = timing["rtf"], timing.get("us_per_frame", {})
    if not calls.get("p50") or "rtf_p50" not in timing:
        return rtf, rtf
    scale = timing["rtf_p50"] / calls["p50"]
    return min(rtf, scale * calls["min"]), max(rtf, scale * calls["p95"])


def speed_against_chunk(rows: list[Row]) -> str | None:
    """Microseconds per frame by outputs per call, hot caches: each compressed model by its fastest engine, and the
    fastest dense engine of each type; None where fewer than two chunks were measured.
    """
    curves = {}
    for row in rows:
        lines = [line for line in row.timing.get("engines", []) if line.get("cache", "hot") == "hot"]
        if row.dense:  # as fast as the model that the others were made from
            continue
        if not row.groups:
            if "baseline" in row.timing:
                for dtype in dict.fromkeys(line["dtype"] for line in lines):
                    curves[f"fastest dense {dtype}"] = fastest([line for line in lines if line["dtype"] == dtype])
        elif lines:
            curves[row.name] = fastest(lines)
    if not any(len(points) > 1 for points in curves.values()):
        return None
    with drawing(6.4, 3.8) as (figure, axes):
        for place, (name, points) in enumerate(curves.items()):
            dense = name.startswith("fastest dense")
            axes.plot(points.keys(), points.values(), label=name, linewidth=2 if dense else 1, markersize=6,
                      linestyle=LINES[place % len(LINES)], **marked(place))  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        chunks = sorted({chunk for points in curves.values() for chunk in points})
        axes.set_xticks(chunks, map(str, chunks))
        axes.minorticks_off()
        bottom, top = axes.get_ylim()
        ticks = [step * 10.0**power for power in range(-2, 7) for step in (1, 2, 5)]
        ticks = [tick for tick in ticks if bottom <= tick <= top]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel("outputs per call T (the longer, the more delay)")
        axes.set_ylabel("microseconds per output frame, median")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return svg(figure)


def fastest(lines: list[dict[str, Any]]) -> dict[int, float]:
    """Outputs per call -> least median time per frame of these engines, by rising chunk."""
    found: dict[int, float] = {}
    for line in sorted(lines, key=lambda line: line["chunk"]):
        time = line["us_per_frame"]["p50"]
        found[line["chunk"]] = min(time, found.get(line["chunk"], time))
    return found
