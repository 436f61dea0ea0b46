"""The table of a language-model recipe: size, perplexity before and after fine-tuning, words a second."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from dirnet.asr import score
from dirnet.compression.report import size_figures
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.nn.language import LanguageModel
from dirnet.options import Parser, place
from dirnet.provenance import commit, cpu_name, package_version
from dirnet.report.corpus import corpus_of
from dirnet.report.results import measured, read_result, seed_of

SAMPLES = 1000  # of the bootstrap
CONTROL = "dense_1x"
PACKAGES = ("torch", "espnet", "executorch", "onnxruntime")
HEADER = ("model", "recurrent weights", "R", "all params", "R (all)", "bytes", "PPL before", "PPL", "against control",
          "words/s", "speed-up", "over int8")  # fmt: skip
NOTE = (
    "R: recurrent weights of the dense model over those kept, what `--size` asks for; embedding and output layer are "
    "not compressed, R (all) counts them. bytes: of everything, with indices. PPL: per word, ends of sentences "
    "counted, every sentence from a zero state, 95 % bootstrap interval over sentences; before: not fine-tuned; "
    f"against control: relative difference to {CONTROL}, the dense model with the same fine-tuning, paired over "
    "sentences. words/s: one word a call, one thread; speed-up, over int8: against the fastest dense engine."
)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write OUT/results.md and OUT/results.json and print the table; a stage that did not run leaves dashes."""
    parser = Parser(prog="python -m dirnet.report.perplexity", description=__doc__)
    parser.add_argument("--exp", default=Path("exp"), type=Path, help="folder of the experiments")
    parser.add_argument("--models", nargs="+", required=True, help="folders in it; the first is the dense model")
    parser.add_argument("--test_set", default="test", help="the set whose perplexity is shown")
    parser.add_argument("--data", default=Path("data"), type=Path, help="holds SET/text and tokens.txt")
    parser.add_argument("--command", default="", help="the command that made the models")
    parser.add_argument("--out", default=Path("exp/report"), type=place)
    arguments = parser.parse_args(argv)
    rows = collect(arguments.exp, arguments.models, arguments.test_set)
    facts = origin(rows, arguments.data, arguments.test_set, arguments.command)
    with atomic_write(arguments.out / "results.json") as stream:
        json.dump({"facts": facts, "rows": rows}, stream, indent=1, allow_nan=False)
    with atomic_write(arguments.out / "results.md") as stream:
        stream.write(f"{table(rows)}\n{NOTE}\n\n```sh\n{facts['command'] or '# command not given'}\n```\n\n")
        stream.writelines(f"* {name}: {value}\n" for name, value in facts.items() if name != "command")
    print(table(rows), end="")
    print(f"\n{arguments.out}/results.md: the same with its origin")
    return 0


def collect(exp: Path, models: Sequence[str], test_set: str) -> list[dict[str, Any]]:
    """One row a model, plain values; what no stage measured is None."""
    rows: list[dict[str, Any]] = []
    scored = f"ppl_{test_set}/ppl.json"
    scores = {
        name: measured(exp / name / scored, exp / name / storage.DESCRIPTION)
        for name in dict.fromkeys([CONTROL, *models])
    }
    control = scores[CONTROL]
    for name in models:
        folder = exp / name
        model = storage.load_language(folder)
        size, weights = size_figures(model), recurrent_weights(model)
        after = scores[name]
        before = measured(folder / "start" / scored, folder / "start/model.pth")  # ESPnet's
        speed = measured(folder / "speed.json", folder / storage.DESCRIPTION) or {}
        first = rows[0] if rows else {"recurrent_weights": weights, "params": size["params"]}
        told = storage.describe(folder, storage.LANGUAGE_FORMAT)
        rows.append({
            "model": name,
            "recurrent_weights": weights,
            "ratio": first["recurrent_weights"] / weights,
            "params": size["params"],
            "ratio_all": first["params"] / size["params"],
            "bytes": size["bytes"],
            "perplexity": after and [after[key] for key in ("perplexity", "low", "high")],
            "before": before and [before[key] for key in ("perplexity", "low", "high")],
            "against_control": difference(after, control) if after and control and name != CONTROL else None,
            "words_per_second": speed.get("words_per_second"),
            "speed_up": speed.get("speed_up"),
            "speed_up_int8": speed.get("speed_up_int8"),
            "against": speed.get("against"),
            "shape": f"{model.config.num_layers}x{model.config.hidden_size} {model.config.rnn_type}",
            "vocabulary": len(model.config.words),
            "commit": told.get("commit"),
            "seed": seed_of(folder),
            "text_sha256": after and after["key"]["text"],
            "training": (read_result(folder / "lm.json") or {}),
            "speed_device": speed.get("cpu"),
        })  # fmt: skip
    return rows


def recurrent_weights(model: LanguageModel) -> int:
    """Values kept of the matrices of the recurrent layers, biases not counted."""
    return sum(values.numel() for name, values in model.rnn.named_parameters() if not name.startswith("bias"))


def difference(ours: dict[str, Any], control: dict[str, Any]) -> list[float]:
    """Relative difference of the perplexities in per cent with its interval; the same sentences in both."""
    if ours["key"]["text"] != control["key"]["text"]:
        raise UserError(f"the perplexities of {ours['set']} are of two texts; run the stage again")
    nats, base, words = (np.array(values) for values in (ours["nats"], control["nats"], ours["words"]))
    gap = nats - base
    return [100 * float(np.expm1(value)) for value in (gap.sum() / words.sum(), *score.interval(gap, words, SAMPLES))]


def origin(rows: Sequence[dict[str, Any]], data: Path, test_set: str, command: str) -> dict[str, Any]:
    """What makes the figures traceable: data, model, seeds, commits, device, versions, command.

    A set that is no longer the text whose perplexity is shown is a `UserError`.
    """
    counts, text = {}, data / test_set / "text"
    known = {row["text_sha256"] for row in rows} - {None}
    if known and text.exists() and known != {hashlib.sha256(text.read_bytes()).hexdigest()}:
        raise UserError(f"{text} is not the text that the models were scored on; run the stages from scoring on again")
    for name in ("train", "valid", test_set):
        path = data / name / "text"
        if path.exists():
            lengths = [len(line.split()) - 1 for line in path.read_text(encoding="utf-8").splitlines()]
            counts[name] = f"{len(lengths):,} sentences, {sum(lengths):,} words"
    corpus = corpus_of(data).split()
    commits = sorted({row["commit"] or "unknown" for row in rows} | {commit() or "unknown"})
    epochs = [f"{row['model']} {row['training']['epochs']} ({row['training']['seconds']:.0f} s)" for row in rows
              if row["training"]]  # fmt: skip
    peers = "; ".join(sorted({row["against"] for row in rows} - {None}))
    sets = "; ".join(f"{name} {text}" for name, text in counts.items())
    return {
        "data": f"{corpus[0] if corpus else 'unknown'}: {sets}",
        "model": f"{rows[0]['shape']}, {rows[0]['vocabulary']:,} tokens",
        "seed": ", ".join(map(str, sorted({row["seed"] for row in rows} - {None}))) or "unknown",
        "commit": ", ".join(commits),
        "device": rows[0]["speed_device"] or cpu_name(),
        "epochs of training (seconds)": ", ".join(epochs),
        "dense engines the speed-ups refer to": peers.replace("per frame", "per word") or "none",
        "date": date.today().isoformat(),
        "versions": ", ".join(f"{name} {package_version(name) or 'not installed'}" for name in PACKAGES),
        "command": command,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" + "|---:" * (len(HEADER) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows), ""])


def cells(row: dict[str, Any]) -> list[str]:
    """One row as text, in the order of `HEADER`."""

    def shown(values: Sequence[float] | None) -> str:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*values) if values else "-"

    gap = row["against_control"]
    return [
        row["model"], f"{row['recurrent_weights']:,}", f"{row['ratio']:.1f}x", f"{row['params']:,}",
        f"{row['ratio_all']:.1f}x", f"{row['bytes']:,}", shown(row["before"]), shown(row["perplexity"]),
        "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*gap) if gap else "",
        f"{row['words_per_second']:,.0f}" if row["words_per_second"] else "-",
        f"{row['speed_up']:.1f}x" if row["speed_up"] else "-",
        f"{row['speed_up_int8']:.1f}x" if row["speed_up_int8"] else "-",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
