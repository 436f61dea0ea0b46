"""Tables of bench/accuracy.py's results: error rates with 95 % bootstrap intervals, pooled over seeds.

Utterances are drawn together for all seeds and methods, so the difference to the control is a paired one: over the
seeds that both have. Seeds are held fixed, unless --redraw_seeds draws them, too: three tell little about others.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from dirnet.asr.score import interval
from dirnet.errors import UserError, one_line_errors
from dirnet.files import read_log
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print one Markdown table a size; rows by phone error rate after fine-tuning."""
    parser = Parser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder with results.jsonl")
    parser.add_argument("--control", default="dense", help="the method that all are compared with (default: dense)")
    parser.add_argument("--redraw_seeds", action="store_true", help="intervals over seeds, too, not only utterances")
    arguments = parser.parse_args(argv)
    path = arguments.out / "results.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist; run bench/accuracy.py first")
    rows = {(row["size"], row["method"], row["seed"], row["stage"]): row for row in read_log(path)}
    if not rows:
        raise UserError(f"{path} holds no results yet; wait for bench/accuracy.py")
    methods = list(dict.fromkeys(method for _, method, *_ in rows))
    if arguments.control not in ("dense", *methods):
        raise UserError(f"--control is {arguments.control!r}, expected a method of {path}: {', '.join(methods)}")
    some = next(iter(rows.values()))
    commits = ", ".join(sorted({row["commit"] for row in rows.values() if row["commit"]}))
    print(f"{some['hours']} h of training audio, {len(some['phones'])} test utterances; {some['device']}, "
          f"torch {some['torch']}; commit {commits}")  # fmt: skip
    for size in dict.fromkeys(size for size, *_ in rows if size != "1x") or ["1x"]:
        print(f"\n## {size}\n")
        here = {key: row for key, row in rows.items() if key[0] == size}
        lent = {key: row for key, row in rows.items() if key[0] == "1x" and (size, *key[1:]) not in here}
        print(table(lent | here, arguments.control, arguments.redraw_seeds))
    return 0


def table(rows: dict[tuple, dict], control: str = "dense", redraw: bool = False) -> str:
    """Markdown: one line a method; differences are those to the method `control`, where it is there.

    redraw: intervals are over seeds, too.
    """
    groups = defaultdict(dict)
    for (_, method, seed, stage), row in rows.items():
        groups[method].setdefault(stage, {})[seed] = row
    against, dense = groups[control].get("after"), next(iter(groups["dense"].get("after", {}).values()), None)
    lines = [
        f"| method | params | R | bytes | R (bytes) | PER before | PER | PER against {control} | WER before | WER "
        f"| WER against {control} | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    sortable = []
    for method, stages in groups.items():
        after = stages.get("after")
        if not after:
            continue
        row, before = next(iter(after.values())), {seed: stages["before"][seed] for seed in after}
        params, size = (np.mean([r[unit] for r in after.values()]) for unit in ("params", "bytes"))
        ratios = (dense["params"] / params, dense["bytes"] / size) if dense else (float("nan"),) * 2
        per = rate(after, "phone_errors", "phones", redraw)
        shared = {seed: (after[seed], against[seed]) for seed in after if against and seed in against}
        paired, spoken = method != control and bool(shared), "words" in row
        cells = [
            method, f"{params:,.0f}", f"{ratios[0]:.2f}", f"{size:,.0f}", f"{ratios[1]:.2f}",
            shown(rate(before, "phone_errors", "phones", redraw)), shown(per),
            difference(shared, "phone_errors", redraw) if paired else "",
            shown(rate(before, "word_errors", "words", redraw)) if spoken else "",
            shown(rate(after, "word_errors", "words", redraw)) if spoken else "",
            difference(shared, "word_errors", redraw) if paired and spoken else "", str(len(after)),
        ]  # fmt: skip
        sortable.append((method != "dense", per[0], "| " + " | ".join(cells) + " |"))
    return "\n".join(lines + [line for *_, line in sorted(sortable)])


def rate(rows: dict[int, dict], errors: str, tokens: str, redraw: bool = False) -> tuple[float, float, float]:
    """Mean error rate over seeds in per cent, and the ends of its interval."""
    edits = _by_seed([row[errors] for row in rows.values()], redraw)
    total = _by_seed([row[tokens] for row in rows.values()], redraw)
    low, high = interval(edits, total)
    return 100 * edits.sum() / total.sum(), 100 * low, 100 * high


def difference(pairs: dict[int, tuple[dict, dict]], errors: str, redraw: bool = False) -> str:
    """The relative change of the errors to the control of the same seeds, with its interval."""
    ours = _by_seed([pair[0][errors] for pair in pairs.values()], redraw)
    base = _by_seed([pair[1][errors] for pair in pairs.values()], redraw)
    if not base.sum():
        return "-"  # nothing to be better than
    change, low, high = (100 * (ratio - 1) for ratio in (ours.sum() / base.sum(), *interval(ours, base)))
    return f"{change:+.1f} % [{low:+.1f}, {high:+.1f}]"


def _by_seed(errors: list[list[int]], redraw: bool) -> np.ndarray:
    """(seeds, n) where seeds are to be drawn, else their sums (n,)."""
    return np.array(errors) if redraw else np.sum(errors, axis=0)


def shown(found: tuple[float, float, float]) -> str:
    """`12.3 [11.8, 12.9]`."""
    return f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


if __name__ == "__main__":
    main()
