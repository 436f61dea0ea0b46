"""A table of the paper and the measured one as Markdown: two blocks, and where every measured row comes from."""

from __future__ import annotations

from collections.abc import Sequence

from dirnet.report.paper_rows import KNOWN, Measured, Origin, halves
from dirnet.report.published import published

TITLES = {"kept": "Largest R without loss", "fixed": "The same R for all"}


def markdown(what: str, rows: Sequence[Measured], ratio: float, tolerance: float, metric: str) -> str:
    """The page of `what`; ratio, tolerance: of the halves of tables 1 and 2, see `halves`."""
    paper = published(what)
    origins = list(dict.fromkeys(row.origin for row in rows))
    measured = {"table3": _widths, "fig3": _curves}.get(what, _halves)(rows, origins, ratio, tolerance, metric)
    lines = [f"# {paper['title']} ({paper['where']})", "", "## Paper", "", f"{paper['setting']}.", ""]
    lines += [*_paper(what), "", *([paper["remark"].strip(), ""] if paper["remark"] else [])]
    lines += ["## Measured here", "", *measured, "", "Where the rows come from:", ""]
    for number, origin in enumerate(origins, start=1):
        lines.append(
            f"* [{number}] data: {origin.data}; model: {origin.model}; seeds: {origin.seeds}; commit: {origin.commit}; "
            f"device: {origin.device}; command: `{origin.command}`"
        )
    return "\n".join([*lines, ""])


def _paper(what: str) -> list[str]:
    paper = published(what)
    if what == "table3":
        body = [[", ".join(map(str, widths)), params, svd, dirnet] for widths, params, svd, dirnet in paper["rows"]]
        return _table(["widths of 500 units", "params", "WER SVD", "WER DirNet"], body)
    if what == "fig3":
        body = [[name, "{:g} to {:g}".format(*span), f"{chosen:g}", said] for name, span, chosen, said in paper["rows"]]
        return _table(["setting", "explored", "chosen", "what the text says"], body, left=(0, 3))
    lines = []
    for half, title in TITLES.items():
        body = [[method, params, f"{r:.1f}x", f"{t:.1f}x", error] for of, method, params, r, t, error in paper["rows"]
                if of == half]  # fmt: skip
        lines += [f"{title}:", "", *_table(["network", "params", "R", "T", paper["metric"]], body), ""]
    return lines[:-1]


def _halves(
    rows: Sequence[Measured], origins: list[Origin], ratio: float, tolerance: float, metric: str
) -> list[str]:
    lines, sets = [], list(dict.fromkeys(row.data for row in rows))
    for name in sets:  # each set has a control of its own
        lines += [f"Set {name}:", ""] if len(sets) > 1 else []
        lines += [*_of_set([row for row in rows if row.data == name], origins, ratio, tolerance, metric), ""]
    return lines[:-1]


def _of_set(
    rows: Sequence[Measured], origins: list[Origin], ratio: float, tolerance: float, metric: str
) -> list[str]:
    header = ["method", "the paper's", "params", "R", "R (all)", metric, "speed-up", "over int8", "from"]
    lines = []
    for half, found in zip(TITLES, halves(rows, ratio, tolerance), strict=True):
        body = []
        for row in sorted(found, key=lambda row: (not row.control, row.error)):
            span = f" [{row.low:.1f}, {row.high:.1f}]" if row.low is not None else ""
            body.append([
                row.label, KNOWN.get(row.method, "-"), f"{row.params:,}", f"{row.ratio:.1f}x", _times(row.ratio_all),
                f"{row.error:.2f}{span}", _times(row.speed_up), _times(row.speed_up_int8), _from(row, origins),
            ])  # fmt: skip
        title = f"Largest R without loss, at most {tolerance:g} % above the dense control" if half == "kept" else \
            f"R = {ratio:g}x"  # fmt: skip
        lines += [f"{title}:", "", *(_table(header, body, left=(0, 1)) if body else ["Nothing was measured."]), ""]
    control = halves(rows, ratio, tolerance)[0][0]
    without = sorted({row.method for row in rows} - {row.method for row in halves(rows, ratio, tolerance)[0]}
                     - {rows[0].method})  # fmt: skip
    if without:
        lines += [f"No size measured of {', '.join(without)} keeps the {metric} of {control.label}.", ""]
    return lines[:-1]


def _widths(rows: Sequence[Measured], origins: list[Origin], *_) -> list[str]:
    svd = {row.x: row for row in rows if row.method == "svd"}
    dirnet = {row.x: row for row in rows if row.method == "dirnet"}
    paper = published("table3")["rows"]
    svd |= {row.x: row for row in rows if row.method == "dense"}  # x: number of the setting, the dense one's is -1
    body = []
    for x, row in sorted(svd.items()):
        theirs = f"{dirnet[x].error:.2f}" if x in dirnet else f"{row.error:.2f}" if row.method == "dense" else "-"
        scaled = ", ".join(map(str, paper[int(x) + 1][0]))
        body.append([row.label or "dense", scaled, f"{row.params:,}", f"{row.error:.2f}", theirs, _from(row, origins)])
    missing = [", ".join(map(str, widths)) for x, (widths, *_) in enumerate(paper, start=-1) if x not in svd]
    said = [f"Not measured: {'; '.join(missing)}."] if missing else []
    header = ["widths (SVD)", "scaled from", "params", "WER SVD", "WER DirNet, same params", "from"]
    return [*_table(header, body, left=(0, 1)), *([""] + said if said else [])]


def _curves(rows: Sequence[Measured], origins: list[Origin], *_) -> list[str]:
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        points = sorted((row for row in rows if row.method == method), key=lambda row: row.x)
        body = [[f"{row.x:g}", f"{row.params:,}", f"{row.error:.3f}", _from(row, origins)] for row in points]
        lines += [*_table([method, "params", "F-score of aligned words", "from"], body), ""]
    return lines[:-1]


def _table(header: list[str], body: list[list], left: tuple[int, ...] = (0,)) -> list[str]:
    rule = "|".join("---" if at in left else "---:" for at in range(len(header)))
    return [f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {' | '.join(map(str, cells))} |" for cells in body)]


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}x"


def _from(row: Measured, origins: list[Origin]) -> str:
    return f"[{origins.index(row.origin) + 1}]"
