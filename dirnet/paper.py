"""The paper's tables and its figure of settings, beside what was measured here: two blocks, never mixed.

    dirnet paper table1 --results W --out exp/paper -- --data /corpora/ptb         # runs egs/ptb_dirnet into W first
    dirnet paper table2 --results W --out exp/paper -- --corpus kaldi --data_root DIR --size "2.8x 4.3x 7.9x"
    dirnet paper table2 --results OUT --out exp/paper                              # collects what is there
    dirnet paper table3 --results S --out exp/paper -- --model exp/smbr --feats dump/mfcc/test/feats.scp --ref REF
    dirnet paper fig3 --results S --out exp/paper -- --model ...                   # sweeps of Theta^0 and gamma

What follows `--` are options of run.sh (tables 1 and 2, whose work folder --results then is) or of `dirnet sweep`
(table 3, figure 3); paths in them, as ./ptb, are from here if they exist, else from the recipe's folder. With options
the experiment is run through --cmd, or continued: finished stages and points are not computed again. Written are
OUT/WHAT.md, .json and .png. The paper's figures are those of `report/published.yaml`.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write, read_json
from dirnet.options import Parser, place
from dirnet.report import paper_figures, paper_rows, paper_text
from dirnet.report.published import WHAT, published

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {"table1": "ptb_dirnet", "table2": "librispeech_dirnet"}
SWEEPS = {"table3": ("widths",), "fig3": ("vartheta", "gamma")}
RATIOS = {"table1": 6.7, "table2": 7.9}
COMMAND = "paper_command.json"


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, then write Markdown, JSON and a picture."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    parser = Parser(prog="dirnet paper", description=__doc__)
    parser.add_argument("what", choices=WHAT)
    told = "to collect: a recipe's work folder, OUT of bench.accuracy or of dirnet sweep"
    parser.add_argument("--results", required=True, type=Path, nargs="+", help=told)
    parser.add_argument("--out", default=Path("exp/paper"), type=place)
    parser.add_argument("--cmd", default="", help="how jobs are run, e.g. utils/slurm.pl; default: here")
    parser.add_argument("--metric", choices=["wer", "per"], default="wer", help="of table 2")
    parser.add_argument("--ratio", type=float, help="compression of the second half; default: the paper's 6.7 or 7.9")
    parser.add_argument("--tolerance", type=float, default=0.5, help="per cent above the control that are no loss")
    for name in ("data", "model", "seeds", "command"):
        parser.add_argument(f"--{name}", default="", help=f"{name} that the rows name where the results record none")
    arguments = parser.parse_args(words[:at])
    options = words[at + 1 :]
    if arguments.ratio is not None and arguments.ratio < 1:
        raise UserError(f"--ratio is {arguments.ratio}, expected 1 or more")
    if not 0 <= arguments.tolerance < math.inf:
        raise UserError(f"--tolerance is {arguments.tolerance}, expected per cent from 0")
    if options:
        run(arguments.what, arguments.results, options, shlex.split(arguments.cmd))
    elif arguments.cmd:
        raise UserError(f"--cmd {arguments.cmd} runs an experiment, but there are no options for one after --")
    rows = []
    for folder in arguments.results:
        if not folder.is_dir():
            raise UserError(f"--results {folder} is no folder; run the experiment first, its options after --")
        given = {name: getattr(arguments, name) for name in ("data", "model", "seeds")}
        given["command"] = arguments.command or (read_json(folder / COMMAND) or {}).get(arguments.what, "")
        rows += collected(arguments.what, folder, given, arguments.metric)
    ratio = arguments.ratio or RATIOS.get(arguments.what, 1.0)
    metric = arguments.metric.upper() if arguments.what == "table2" else published(arguments.what)["metric"]
    out = arguments.out / arguments.what
    text = paper_text.markdown(arguments.what, rows, ratio, arguments.tolerance, metric)
    with atomic_write(out.with_suffix(".md")) as stream:
        stream.write(text)
    with atomic_write(out.with_suffix(".json")) as stream:
        measured = [row.to_mapping() for row in rows]
        json.dump({"paper": published(arguments.what), "measured": measured}, stream, indent=1)
    with atomic_write(out.with_suffix(".png"), "wb") as stream:
        stream.write(paper_figures.picture(arguments.what, rows, metric))
    print(text)
    print(f"{out}.md, .json, .png")
    return 0


def collected(what: str, folder: Path, given: dict[str, str], metric: str) -> list[paper_rows.Measured]:
    """The rows of one folder of results, one at least."""
    if what == "table1":
        rows = paper_rows.table1(folder, given)
    elif what == "table2":
        rows = paper_rows.table2(folder, given, metric)
    else:
        rows = [row for sweep in SWEEPS[what] for row in paper_rows.sweep(folder, sweep, given)]
    if not rows:
        raise UserError(f"--results {folder} holds no score of {what}; run the experiment to its end first")
    return rows


def run(what: str, results: Sequence[Path], options: Sequence[str], cmd: Sequence[str]) -> None:
    """The recipe, or each sweep, into the one folder of `results`; the command is kept there for the table."""
    if len(results) > 1:
        raise UserError(f"--results names {len(results)} folders; an experiment is run into one")
    folder = results[0].resolve()
    if cmd:  # whose logs go there
        folder.mkdir(parents=True, exist_ok=True)
    if what in RECIPES:
        home = ROOT / "egs" / RECIPES[what]
        if not (home / "run.sh").exists():
            raise UserError(f"{home}/run.sh does not exist; {what} is run from a checkout of the project")
        found = [str(Path(word).absolute()) if "/" in word and Path(word).exists() else word for word in options]
        jobs = {what: ["./run.sh", *found, "--workdir", str(folder)]}
    else:
        home = Path.cwd()
        python = [sys.executable, "-m", "dirnet.sweep"]
        jobs = {name: [*python, name, *options, "--out", str(folder)] for name in SWEEPS[what]}
    for name, job in jobs.items():
        where = [*cmd, str(folder / f"log/paper_{name}.log")] if cmd else []
        print(f"running: {shlex.join([*where, *job])}", flush=True)
        ended = subprocess.run([*where, *job], cwd=home)
        if ended.returncode:
            raise UserError(f"{shlex.join(job)} ended with status {ended.returncode}; mend that and run this again")
    shown = "; ".join(shlex.join(job) for job in jobs.values())
    with atomic_write(folder / COMMAND) as stream:
        json.dump((read_json(folder / COMMAND) or {}) | {what: shown}, stream)


if __name__ == "__main__":
    main()
