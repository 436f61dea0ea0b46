"""The time of every engine, chunk and state of the caches, as tables: what `dirnet rtf --compare` left in rtf.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dirnet.deploy.comparison import cells_by_engine

NOTE = (
    "Microseconds per output frame, median, by outputs per call T. Behind those of a compressed model: how many times "
    "faster it is than the fastest dense fp32 and the fastest dense int8 engine with chunks no longer than T. "
    "Read: its time at T = 1 over that of a pure read of its weights. Hot: the engine has the caches to itself; cold: "
    "a buffer larger than the last cache level was written before every call."
)


class Table(NamedTuple):
    """A table as text: the state of the caches, column names, cells."""

    title: str
    header: list[str]
    cells: list[list[str]]


def tables(results: Mapping[str, dict[str, Any]]) -> list[Table]:
    """One table per state of the caches from the contents of rtf.json by model; none where nothing was measured."""
    lines = [(name, line) for name, result in results.items() for line in result.get("engines", [])]
    chunks = sorted({line["chunk"] for _, line in lines})
    found = []
    for cache in dict.fromkeys(line.get("cache", "hot") for _, line in lines):
        rows = []
        for (name, engine, dtype, size), cells in cells_by_engine(lines, cache).items():
            ratios = not _is_baseline(results[name])
            read = cells[1].get("read_ratio") if 1 in cells else None
            rows.append([
                name, f"{engine} {dtype}", f"{size / 1e3:,.0f}" if size else "-",
                *(_cell(cells.get(chunk), ratios) for chunk in chunks), f"{read:.1f}x" if read and ratios else "-",
            ])  # fmt: skip
        header = ["model", "engine", "weights, kB", *(f"T = {chunk}" for chunk in chunks), "read"]
        found.append(Table(f"{cache} caches", header, rows))
    return found


def _is_baseline(result: dict[str, Any]) -> bool:
    return "baseline" in result and Path(result["program"]).parent == Path(result["baseline"])


def _cell(line: dict[str, Any] | None, ratios: bool) -> str:
    if line is None:
        return "-"
    told = [f"{line[name]:.1f}x" for name in ("speed_up", "speed_up_int8") if name in line] if ratios else []
    return f"{line['us_per_frame']['p50']:.1f}" + (f" ({', '.join(told)})" if told else "")


def load(results: Mapping[str, dict[str, Any]]) -> str:
    """How busy the host was while timing, empty where that is not known; of several runs the busiest."""
    known = [result for result in results.values() if result.get("load_average")]
    if not known:
        return ""
    busiest = max(known, key=lambda result: result["load_average"][0])
    average, cores = busiest["load_average"][0], busiest.get("cpu_count")
    beyond = ": caches were shared, an idle machine is faster" if cores and average > cores else ""
    return f"Load average {average:.1f}{f' on {cores} cores' if cores else ''} while timing{beyond}."


def markdown(results: Mapping[str, dict[str, Any]]) -> str:
    """The tables in Markdown, one after the other."""
    texts = []
    for title, header, cells in tables(results):
        rule = "|---|---|" + "---:|" * (len(header) - 2)
        lines = [f"{title}:", "", f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in cells)]
        texts.append("\n".join(lines) + "\n")
    return "\n".join(texts)
