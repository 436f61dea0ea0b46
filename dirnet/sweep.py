"""The paper's studies of its own settings as commands: Theta^0 and gamma (Fig. 3), widths per layer (Table 3).

Every point compresses the model anew, decodes a set without any fine-tuning, and scores the words: their error rate,
and the F-score of Sec. 4.3, here the F1 of aligned words, `2 hits / (reference + hypothesis words)`.

* vartheta, gamma: preset `paper`, the other settings as published, and nothing fills a path up that ends below the
  budget: the figure is about what the path itself does. lambda_2 is chosen at the published vartheta, as the preset
  does: held over vartheta, and for each gamma its own.
* widths: SVD with the paper's ranks per layer, scaled to this model's units and read by depth, against DirNet that
  finds atoms and codes per layer within the same number of parameters. With the same widths *and* the same parameters
  the two would be one: codes without zeros.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dirnet import compress, config
from dirnet.asr.ark import Matrices
from dirnet.asr.decode import DecodeConfig, Decoder
from dirnet.asr.score import count
from dirnet.asr.transcripts import read_transcripts
from dirnet.compression.budget import parse_size
from dirnet.compression.groups import matrix_groups
from dirnet.compression.methods import Method
from dirnet.compression.report import size_figures
from dirnet.errors import UserError, one_line_errors
from dirnet.factorization import Factors, shrinkage, svd
from dirnet.files import append_log, atomic_write, read_log
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.recurrent import coded_class
from dirnet.options import Parser, place, seed
from dirnet.posteriors import batches
from dirnet.progress import progress
from dirnet.provenance import commit, cpu_name
from dirnet.report.published import published

WHAT = ("vartheta", "gamma", "widths")
VARTHETAS = tuple(10.0**power for power in range(-3, 11))
GAMMAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
UNITS = 500  # of a layer in the paper's model
# Widths of the five layers, WER of SVD and of DirNet; the first row of the paper's Table 3 is the dense model.
TABLE_3 = tuple((tuple(widths), *rates) for widths, _, *rates in published("table3")["rows"][1:])


@dataclass(frozen=True)
class Point:
    """One compressed model of a sweep; `key` tells it from the others, `x` is its place on the axis."""

    key: str
    x: float
    size: str
    method: Method | None
    ranks: tuple[int, ...] = ()


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run the points of a sweep that OUT lacks; then write OUT/WHAT.{md,json,png}."""
    parser = Parser(prog="dirnet sweep", description=__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--model", required=True, help="folder with the dense model.safetensors and model.json")
    parser.add_argument("--feats", required=True, help="feats.scp of the set to decode")
    parser.add_argument("--ref", required=True, help="its Kaldi text file")
    parser.add_argument("--lang", default="data/lang", help="folder with TLG.fst and words.txt")
    parser.add_argument("--config", help="search options, conf/decode.yaml")
    parser.add_argument("--size", help="of vartheta and gamma (default: 7.9x)")
    parser.add_argument("--seed", type=seed, default=0, help="of the solver's random start")
    parser.add_argument("--out", required=True, type=place, help="folder of the results")
    arguments = parser.parse_args(argv)
    if arguments.size and arguments.what == "widths":
        raise UserError(f"--size {arguments.size} goes with vartheta and gamma; the widths of the paper tell the sizes")
    arguments.size = parse_size(arguments.size or "7.9x").text
    settings = config.load(DecodeConfig, arguments.config) if arguments.config else DecodeConfig()
    dense = storage.load(arguments.model)
    if dense.config.compression:
        raise UserError(f"--model {arguments.model} is compressed already; give the dense model")
    if arguments.what == "widths" and dense.config.bidirectional:
        raise UserError(f"--model {arguments.model} is bidirectional; the widths of Table 3 are of one direction")
    references, feats = read_transcripts(arguments.ref), Matrices(arguments.feats)
    missing = [name for name in references if name not in feats]
    if missing:
        raise UserError(f"{arguments.feats} lacks {missing[0]}, an utterance of {arguments.ref}; give the same set")
    decoder = Decoder(arguments.lang, settings)
    decoder.check_outputs(dense.config.phones, arguments.model)
    scorer = _Scorer(references, feats, decoder)
    setting = {"model": storage.describe(arguments.model)["sha256"], "seed": arguments.seed,
               "set": str(arguments.ref), "decoding": dataclasses.asdict(settings),
               "utterances": _digest(references, feats), "graph": _digest_of_graph(arguments.lang)}  # fmt: skip
    if arguments.what != "widths":
        setting["size"] = arguments.size
    shape = f"{dense.config.num_layers}x{dense.config.hidden_size} {dense.config.rnn_type}"
    log = arguments.out / f"{arguments.what}.jsonl"
    rows = _finished(log, setting)
    todo = [point for point in points(arguments.what, dense, arguments.size) if point.key not in rows]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for point in progress(todo, len(todo), f"sweep {arguments.what}", "point"):
        model = _compressed(dense, point, arguments.seed)
        row = {"key": point.key, "x": point.x, "setting": setting, **size_figures(model), **scorer.score(model)}
        row |= {"commit": commit(), "device": cpu_name(), "dense": shape}
        append_log(log, row)
        rows[point.key] = row
        scores = f"F-score {row['f_score']:.3f}, WER {row['wer']:.2f} %"
        print(f"{point.key}: {row['params']:,} params, {scores}", flush=True)
    shown = _widths_table(rows) if arguments.what == "widths" else _curve_table(arguments.what, rows)
    with atomic_write(arguments.out / f"{arguments.what}.md") as stream:
        stream.write(shown)
    with atomic_write(arguments.out / f"{arguments.what}.json") as stream:
        json.dump(list(rows.values()), stream, indent=1)
    with atomic_write(arguments.out / f"{arguments.what}.png", "wb") as stream:
        stream.write(_picture(arguments.what, arguments.out, rows))
    print(f"{arguments.out}/{arguments.what}.md")
    return 0


def points(what: str, dense: AcousticModel, size: str) -> Iterator[Point]:
    """The points of a sweep over the settings of `dense`'s compression."""
    if what == "widths":
        yield from _width_points(dense)
        return
    for value in VARTHETAS if what == "vartheta" else GAMMAS:
        schedule = {"gamma": shrinkage.GAMMA, what: value}
        # first_penalty asks for the number of atoms at the start: half of the budget in D, about N / 4 of them
        penalty = shrinkage.first_penalty(dense.config.hidden_size // 4, gamma=schedule["gamma"])
        method = Method("dirnet", preset="paper", allocation="equal", penalty=penalty, fill=False, **schedule)
        yield Point(f"{what} {value:g}", value, size, method)


def _width_points(dense: AcousticModel) -> Iterator[Point]:
    layers, units = dense.config.num_layers, dense.config.hidden_size
    yield Point("dense", -1, "", None)
    for number, (widths, *_) in enumerate(TABLE_3):
        by_depth = [widths[round(layer * (len(widths) - 1) / max(layers - 1, 1))] for layer in range(layers)]
        ranks = tuple(max(1, round(width * units / UNITS)) for width in (widths[0], *by_depth))
        svd_size = size_figures(_truncated(dense, ranks))["params"]
        shown = " ".join(map(str, ranks[1:]))
        yield Point(f"svd {shown}", number, "", None, ranks)
        yield Point(f"dirnet {shown}", number, str(svd_size), Method("dirnet", allocation="error"))


def _compressed(dense: AcousticModel, point: Point, seed: int) -> AcousticModel:
    if point.key == "dense":
        return dense
    if point.method is None:
        return _truncated(dense, point.ranks)
    return compress(copy.deepcopy(dense), point.size, point.method, seed=seed, progress=False)[0]


def _truncated(dense: AcousticModel, ranks: tuple[int, ...]) -> AcousticModel:
    """`dense` with every group's matrix cut to its rank; one that would grow stays."""
    model = copy.deepcopy(dense)
    factors = []
    for group, rank in zip(matrix_groups(model.rnn), ranks, strict=True):
        smaller = rank * sum(group.shape) < group.matrix.numel()
        factors.append(svd.truncated(group.matrix, rank) if smaller else Factors(None, group.matrix, dense=True))
    model.rnn = coded_class(model.rnn).from_dense(model.rnn, factors)
    return model


class _Scorer:
    """Decodes one set again and again."""

    def __init__(self, references: dict[str, list[str]], feats: Matrices, decoder: Decoder):
        self._references, self._decoder = references, decoder
        self._feats = feats.only(references)

    def score(self, model: AcousticModel) -> dict[str, Any]:
        """WER in per cent, and the F1 of aligned words."""
        found = {}
        with torch.inference_mode():
            for names, features, lengths in batches(self._feats, 20000):
                log_probs, steps = model.eval()(features, lengths)
                for name, values, length in zip(names, log_probs, steps.tolist(), strict=True):
                    found[name] = self._decoder.decode(values[:length].numpy())[0]
        rows = count(self._references, found)
        words, spoken = sum(len(row.reference) for row in rows), sum(len(row.hypothesis) for row in rows)
        hits = words - sum(row.substitutions + row.deletions for row in rows)
        return {"wer": 100 * sum(row.errors for row in rows) / words, "f_score": 2 * hits / (words + spoken)}


def _finished(log: Path, setting: dict[str, Any]) -> dict[str, dict]:
    """The rows in `log`, by key; of another model, set, graph or size than `setting` they are a `UserError`."""
    rows = read_log(log)
    for row in rows:
        for name, value in setting.items():
            if (held := row["setting"].get(name, value)) != value:  # older versions told less
                raise UserError(f"{log} is of {name} {held}, not {value}; give another --out")
    return {row["key"]: row for row in rows}


def _digest(references: Mapping[str, list[str]], feats: Matrices) -> str:
    """A sha256 of utterances, their words and features."""
    content = hashlib.sha256()
    for name, words in references.items():
        content.update(f"{name} {' '.join(words)}\n".encode() + feats[name].tobytes())
    return content.hexdigest()


def _digest_of_graph(lang: str) -> str:
    """A sha256 of the graph and the words in the folder `lang`."""
    content = hashlib.sha256()
    for name in ("TLG.fst", "words.txt"):
        content.update((Path(lang) / name).read_bytes())
    return content.hexdigest()


def _curve_table(what: str, rows: dict[str, dict]) -> str:
    lines = [f"| {what} | params | F-score | WER |", "|---:|---:|---:|---:|"]
    for row in sorted(rows.values(), key=lambda row: row["x"]):
        lines.append(f"| {row['x']:g} | {row['params']:,} | {row['f_score']:.3f} | {row['wer']:.2f} |")
    return "\n".join([*lines, ""])


def _widths_table(rows: dict[str, dict]) -> str:
    lines = [
        "| widths (SVD) | params | SVD WER | DirNet WER | paper: widths of 500 units | SVD | DirNet |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    if "dense" in rows:
        lines.append("| dense | {params:,} | {wer:.2f} | {wer:.2f} | | | |".format(**rows["dense"]))
    for key, row in rows.items():
        if key.startswith("svd "):
            ours, (widths, *paper) = rows[key.replace("svd", "dirnet")], TABLE_3[int(row["x"])]
            measured = f"{row['params']:,} | {row['wer']:.2f} | {ours['wer']:.2f}"
            lines.append(f"| {key[4:]} | {measured} | {', '.join(map(str, widths))} | {paper[0]} | {paper[1]} |")
    return "\n".join([*lines, ""])


def _picture(what: str, out: Path, rows: dict[str, dict]) -> bytes:
    """The PNG: of widths that of `dirnet paper table3`, else the curve alone."""
    from dirnet.report import paper_figures, paper_rows  # with matplotlib, which takes its time

    if what == "widths":
        return paper_figures.picture("table3", paper_rows.sweep(out, what, {}), "wer")
    plt = paper_figures.plt
    found = sorted((row["x"], row["f_score"], row["params"]) for row in rows.values())
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.plot([x for x, *_ in found], [f for _, f, _ in found], "o-", color="#1b4965")
    axes.set_xscale("log")
    axes.set_xlabel(r"$\Theta^0$" if what == "vartheta" else r"$\gamma$")
    axes.set_ylabel("F-score of aligned words")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.25)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    plt.close(figure)
    return stream.getvalue()


if __name__ == "__main__":
    main()
