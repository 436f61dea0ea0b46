"""What timings mean beside each other: speed-ups over the fastest dense engines, and nearness to a pure read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dirnet.deploy.timing import Timing

Reads = Mapping[tuple[int, str], Timing]  # by bytes and state of the caches


def fastest(dense: Iterable[Timing], own: Timing, dtype: str) -> Timing | None:
    """The fastest by the median of the `dense` engines in `dtype` with chunks no longer than `own`, caches alike."""
    eligible = [row for row in dense if (row.dtype, row.cache) == (dtype, own.cache) and row.chunk <= own.chunk]
    return min(eligible, key=Timing.us, default=None)


def speed_ups(own: Timing, dense: Sequence[Timing]) -> dict[str, Any]:
    """`speed_up` over the fastest dense fp32 engine, `speed_up_int8` over the fastest int8 one, and which they are."""
    found: dict[str, Any] = {}
    for dtype, suffix in (("fp32", ""), ("int8", "_int8")):
        if peer := fastest(dense, own, dtype):
            found[f"speed_up{suffix}"] = peer.us() / own.us()
            found[f"against{suffix}"] = (
                f"{peer.engine} {dtype}, chunk {peer.chunk}: {peer.us():.1f} us per frame{_state(peer)}"
            )
    return found


def nearness(own: Timing, reads: Reads) -> dict[str, float]:
    """`read_us`, what reading all weights of `own` once takes, and `read_ratio`, its time per frame over that.

    A chunk of several frames shares what it reads, so the ratio may then be below 1.
    """
    read = reads.get((own.weight_bytes, own.cache)) if own.weight_bytes else None
    return {"read_us": read.us(), "read_ratio": own.us() / read.us()} if read else {}


def row(own: Timing, dense: Sequence[Timing], reads: Reads) -> dict[str, Any]:
    """Everything that is told of one engine, chunk and state of the caches."""
    return own.to_mapping() | speed_ups(own, dense) | nearness(own, reads)


def engines_table(results: Mapping[Path, dict[str, Any]]) -> str:
    """Microseconds per frame for the terminal: a line per model and engine, a column per chunk, a block per cache."""
    names = _names(results)
    rows = [(names[folder], line) for folder, result in results.items() for line in result["engines"]]
    chunks = sorted({line["chunk"] for _, line in rows})
    blocks = []
    for cache in dict.fromkeys(line["cache"] for _, line in rows):
        lines = [f"us per frame, {cache} cache".ljust(51) + "KB".rjust(8) + "".join(f"T={c}".rjust(10) for c in chunks)]
        for key, cells in cells_by_engine(rows, cache).items():
            folder, engine, dtype, size = key
            times = "".join((f"{cells[c]['us_per_frame']['p50']:.1f}" if c in cells else "-").rjust(10) for c in chunks)
            lines.append(f"{folder[-25:]:<26}{f'{engine} {dtype}':<25}{f'{size / 1e3:.0f}' if size else '-':>8}{times}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def cells_by_engine(rows: Iterable[tuple[str, dict[str, Any]]], cache: str) -> dict[tuple, dict[int, dict[str, Any]]]:
    """Rows of `cache` by (model, engine, dtype, weight bytes) and then by chunk."""
    found: dict[tuple, dict[int, dict[str, Any]]] = {}
    for name, line in rows:
        if line.get("cache", "hot") == cache:  # older files know neither caches nor bytes
            key = (name, line["engine"], line["dtype"], line.get("weight_bytes"))
            found.setdefault(key, {})[line["chunk"]] = line
    return found


def models_table(results: Mapping[Path, dict[str, Any]]) -> str:
    """One line per model for the terminal, in its own chunk and with hot caches where these were measured."""
    names = _names(results)
    lines = [f"{'model':<24}{'engine':<24}{'chunk':>5}{'us/frame':>10}{'p95':>9}{'RTF':>9}{'speed-up':>9}{'int8':>7}"
             f"{'read':>7}"]  # fmt: skip
    for folder, result in results.items():
        us = result["us_per_frame"]
        ratios = [result.get(name) for name in ("speed_up", "speed_up_int8", "read_ratio")]
        over, over_int8, read = (f"{ratio:.2f}x" if ratio else "-" for ratio in ratios)
        name = f"{result['engine']} {result['dtype']}"
        lines.append(f"{names[folder][-23:]:<24}{name:<24}{result['chunk']:>5}{us['p50']:>10.1f}{us['p95']:>9.1f}"
                     f"{result['rtf_p50']:>9.6f}{over:>9}{over_int8:>7}{read:>7}")  # fmt: skip
    lines.append("RTF: of the median call; speed-up, int8: over the fastest dense float32 and int8 engine;")
    lines.append("read: time over a pure read of the weights")
    return "\n".join(lines)


def _names(folders: Iterable[Path]) -> dict[Path, str]:
    """The folders as they are told apart: without the path that all share."""
    folders = list(folders)
    shared = os.path.commonpath([os.path.abspath(folder.parent) for folder in folders])
    return {folder: os.path.relpath(folder, shared) for folder in folders}


def _state(timing: Timing) -> str:
    return "" if timing.cache == "hot" else f", {timing.cache} cache"
