"""The results table on standard output, and the report: one self-contained HTML page with tables and figures."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

import jinja2

from dirnet.errors import UserError, did_you_mean, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.options import Parser, place
from dirnet.provenance import cpu_name, package_version
from dirnet.report import figures, speed_figures, timings
from dirnet.report.corpus import note_on
from dirnet.report.palette import Palette
from dirnet.report.results import Row, collect, columns, markdown, seed_of, stages_of

PACKAGES = ("torch", "espnet", "executorch", "numpy", "kaldi-decoder")
GROUP_HEADER = ("group", "shape", "atoms", "density", "params", "bytes", "relative error")


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write OUT/index.html and OUT/results.md, print the table; a stage that did not run leaves dashes."""
    parser = Parser(prog="dirnet report", description=__doc__)
    parser.add_argument("--exp", default="exp", type=Path, help="folder of the experiments")
    parser.add_argument("--models", nargs="+", required=True, help="folders in it; the first is the dense model")
    parser.add_argument("--test_set", nargs="+", default=["test"], help="the sets whose error rates are shown")
    parser.add_argument("--data", type=Path, help="the recipe's folder, which knows the corpus (default: data)")
    parser.add_argument("--out", default=Path("exp/report"), type=place)
    parser.add_argument("--title", default="DirNet: size, accuracy and speed")
    parser.add_argument("--command", default="", help="the command that made the models, for the last section")
    arguments = parser.parse_args(argv)
    if arguments.data and not arguments.data.is_dir():
        raise UserError(f"--data {arguments.data} is no folder; give the recipe's data, or leave it out")
    if "" in arguments.test_set:
        raise UserError("--test_set is empty, expected the name of a decoded set such as test")
    decoded = {path.name.removeprefix("decode_") for name in arguments.models
               for path in (arguments.exp / name).glob("decode_*")}  # fmt: skip
    for name in arguments.test_set if decoded else []:
        if name not in decoded:
            raise UserError(f"--test_set {name} was decoded by no model; {did_you_mean(name, sorted(decoded))}")
    results = {name: collect(arguments.exp, arguments.models, name) for name in arguments.test_set}
    tables = "\n".join(f"{name}:\n\n{markdown(rows)}" for name, rows in results.items())
    facts = origin(arguments.exp, results[arguments.test_set[0]])
    stages = stages_of(arguments.exp, arguments.models[0])
    note = note_on(arguments.data or Path("data"))
    page = render(results, stages, arguments.title, note, arguments.command, facts)
    with atomic_write(arguments.out / "results.md") as stream:
        stream.write(f"{note}\n\n" if note else "")
        stream.write(f"{tables}\n{speed_section(results)}```sh\n{arguments.command or '# command not given'}\n```\n\n")
        stream.writelines(f"* {term}: {value}\n" for term, value in facts)
    with atomic_write(arguments.out / "index.html") as stream:
        stream.write(page)
    print(tables, end="")
    print(f"\n{arguments.out}/index.html: the same with figures; {arguments.out}/results.md: the table")
    return 0


def render(
    results: dict[str, list[Row]],
    stages: list[tuple[str, list]],
    title: str,
    note: str,
    command: str,
    facts: list[tuple[str, str]],
) -> str:
    """The HTML page of the rows of each test set, models in the same order; nothing in it is fetched from elsewhere.

    stages: the trainings of the dense model, of `stages_of`. note: what a reader must know of the corpus.
    """
    rows = next(iter(results.values()))  # what is not an error rate is the same for every set
    palette = Palette({row.name: row.method for row in rows})
    drawings = [
        *(("Size against error", f"Test set {name}; down and to the left is better, a curve joins a method's sizes.",
           figures.size_against_error(scored, palette)) for name, scored in results.items()),
        ("Real-time factor", timing_caption(rows), speed_figures.real_time_factors(rows, palette)),
        ("Speed against chunk", "Longer chunks read the weights more rarely and delay the words. Hot caches; of each "
         "compressed model, and of the dense one, the fastest engine at every T.",
         speed_figures.speed_against_chunk(rows, palette)),
        ("Atoms and density by group", "A group is what reads one vector: the input, then the hidden vector of each "
         "layer (its recurrent matrix and the next layer's input matrix). Pruning has no dictionary, SVD no zeros.",
         figures.atoms_and_density(rows, palette)),
        ("Training of the dense model", "Development data solid, training data dotted; stages follow each other.",
         figures.baseline_curves(stages, palette)),
        ("Fine-tuning", "Loss of the compressed models and of their dense control. Development data solid, training "
         "data dotted.", figures.training_curves(rows[1:], palette)),
    ]  # fmt: skip
    groups = [
        (row.name, GROUP_HEADER, list(map(group_cells, row.groups)), figures.code_heat_maps(row))
        for row in rows
        if row.groups and not row.dense
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        title=title,
        note=note,
        lead=f"{len(rows)} models, scored on {', '.join(results)}; {date.today().isoformat()}.",
        columns=columns(rows),
        results=results,
        speed_tables=timings.tables(_by_model(rows)),
        speed_note=speed_note(rows),
        dense_engine=dense_engine(rows[0]),
        figures=[drawing for drawing in drawings if drawing[2]],
        group_tables=groups,
        opened=next((row.name for row in rows if row.method.startswith("dirnet")), rows[-1].name),
        command=command or "not given",
        origin=facts,
    )


def speed_section(results: dict[str, list[Row]]) -> str:
    """The times of all engines in Markdown, empty where none were measured."""
    rows = next(iter(results.values()))
    text = timings.markdown(_by_model(rows))
    return f"## Speed\n\n{text}\n{speed_note(rows)}\n\n" if text else ""


def speed_note(rows: list[Row]) -> str:
    """How to read the times of all engines, and how busy the machine was."""
    return f"{timings.NOTE} {timings.load(_by_model(rows))}".rstrip()


def dense_engine(row: Row) -> str:
    """Which engine the real-time factor of the dense model is of, empty where it was not timed."""
    told = row.timing
    return f"{told['engine']} {told['dtype']}, {told['chunk']} outputs a call" if "engine" in told else ""


def _by_model(rows: list[Row]) -> dict[str, dict]:
    return {row.name: row.timing for row in rows}


def group_cells(group: dict) -> list[str]:
    """One group of a compressed model as text, in the order of `GROUP_HEADER`."""
    atoms = "none" if group["atoms"] is None else str(group["atoms"])
    shape = f"{group['rows']} x {group['columns']}"
    return [group["name"], shape, atoms, f"{group['density']:.1%}", f"{group['params']:,}", f"{group['bytes']:,}",
            f"{group['relative_error']:.3f}"]  # fmt: skip


def timing_caption(rows: list[Row]) -> str:
    """Where and how the real-time factors were measured."""
    timing = next((row.timing for row in rows if row.timing), {})
    said = [f"{key}: {timing[key]}" for key in ("device", "cpu", "threads") if key in timing]
    chunks = {row.name: row.timing["chunk"] for row in rows if "chunk" in row.timing}
    if len(set(chunks.values())) == 1:
        said.append(f"outputs a call: {timing['chunk']}")
    elif chunks:
        said.append(f"outputs a call: {', '.join(f'{name} {chunk}' for name, chunk in chunks.items())}")
    measured = f"Measured with {'; '.join(said)}. {timings.load(_by_model(rows))}".rstrip()
    return f"{measured} Bars: median call; whiskers: fastest call, 95th percentile." if said else ""


def origin(exp: Path, rows: list[Row]) -> list[tuple[str, str]]:
    """Terms and values that make the page's figures traceable."""
    commits = sorted({storage.describe(exp / row.name).get("commit") or "unknown" for row in rows})
    epochs = [f"{row.name} {len(row.curves)} ({sum(r['seconds'] for r in row.curves):.0f} s)" for row in rows]
    timings = {row.timing.get("against") for row in rows} - {None}
    seeds = {row.name: seed_of(exp / row.name) for row in rows}
    return [
        ("date", date.today().isoformat()),
        ("commit", ", ".join(commits)),
        ("seeds of training", ", ".join(f"{name} {seed}" for name, seed in seeds.items() if seed is not None)),
        ("epochs of training (seconds)", ", ".join(epochs)),
        ("dense engines the speed-ups refer to", "; ".join(sorted(timings)) or "not measured"),
        ("this page: processor", f"{cpu_name()}, {os.cpu_count()} cores"),
        ("this page: Python", platform.python_version()),
        *((f"this page: {name}", package_version(name) or "not installed") for name in PACKAGES),
    ]


if __name__ == "__main__":
    main()
