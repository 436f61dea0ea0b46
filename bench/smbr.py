"""sMBR against as many further epochs of CTC, from the same trained model: phone and word errors of dev and test.

    python -m bench.smbr --workdir WORK --model WORK/exp/ctc --config bench/conf/smbr.yaml --out OUT
    python -m bench.smbr --out OUT          # the table alone

WORK is a folder of the recipe with stages 0 to 2 done. Every (run of the configuration, seed) writes
OUT/RUN_SEED.json; a rerun does what is missing and prints the table, with 95 % bootstrap intervals over utterances.
OUT/setting.json keeps the configuration, so that results of another one do not mix with them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.accuracy_table import difference, rate, shown
from bench.corpus import Batch, Corpus
from bench.ctc import Training, ctc_loss, phone_errors, posteriors, train, word_errors
from bench.setting import check_setting
from dirnet.asr.alignment import align
from dirnet.asr.decode import DecodeConfig, Decoder
from dirnet.asr.denominator import DenominatorGraph
from dirnet.asr.lexicon import SPN, find, read_lexicon
from dirnet.asr.phone_ngram import PhoneNgram, lattice
from dirnet.asr.smbr import smbr_loss
from dirnet.config import from_mapping, read_yaml
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel
from dirnet.options import Parser
from dirnet.provenance import commit, cpu_name

CONTROL = "ctc"


@dataclass(frozen=True)
class Smbr:
    """Values of `model_conf` of conf/train_smbr.yaml."""

    order: int = 2
    acoustic_scale: float = 1.0
    blank_weight: float = 0.8
    ctc_smooth: float = 0.5


@dataclass(frozen=True)
class Bench:
    """training: of every run, values of `Training`, changed by `training` in a run's own values.

    runs: name -> values of `Smbr`; a name `ctc` or `ctc_...` trains by CTC.
    """

    training: dict
    runs: dict
    beam: float = 9.0
    max_active: int = 500


class SmbrCriterion:
    """Mean expected errors of a batch plus `ctc_smooth` times CTC; references by the model training starts from."""

    def __init__(self, corpus: Corpus, model: AcousticModel, settings: Smbr):
        self.settings, self.accuracies = settings, []
        found = posteriors(model.to(corpus.device), corpus.train)
        self.posteriors = [found[name] for name in corpus.train.names]
        place = {phone: number for number, phone in enumerate(corpus.tokens[1:])}
        lexicon = read_lexicon(corpus.lang / "lexicon.txt")

        def pronounce(word: str) -> Sequence[Sequence[str]]:
            return find(word, lexicon) or [(SPN,)]  # as in the phone transcripts, with --oov spn

        said = (lattice(corpus.words[name], pronounce, place) for name in corpus.train.names)
        self.graph = DenominatorGraph.build(PhoneNgram.estimate(said, len(place), settings.order)).to(corpus.device)

    def __call__(self, log_probs: Tensor, steps: Tensor, batch: Batch) -> Tensor:
        known = torch.nn.utils.rnn.pad_sequence([self.posteriors[row] for row in batch.rows.tolist()], True)
        path = align(known, steps, batch.phones, batch.phone_lengths).to(log_probs.device)
        settings = self.settings
        errors, largest = smbr_loss(
            log_probs, steps.to(log_probs.device), path, self.graph, settings.acoustic_scale, settings.blank_weight
        )
        self.accuracies.append(1 - float(errors.detach().sum() / largest.sum()))
        return errors.sum() / max(int((largest > 0).sum()), 1) + settings.ctc_smooth * ctc_loss(log_probs, steps, batch)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run what OUT lacks, then print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("--workdir", help="of the recipe, with stages 0 to 2 done")
    parser.add_argument("--model", type=Path, help="neutral model that every run starts from, trained by CTC")
    parser.add_argument("--config", help="as bench/conf/smbr.yaml; default: no run, only the table of OUT")
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", help="instead of all of the configuration")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    if arguments.config:
        if not arguments.workdir or not arguments.model:
            raise UserError("--config is given, but not both --workdir and --model; give the corpus and the CTC model")
        run_missing(arguments)
    rows = [json.loads(path.read_text()) for path in sorted(arguments.out.glob("*_*.json"))]
    if not rows:
        raise UserError(f"{arguments.out} holds no results; give --config to make some")
    print(table(rows))
    return 0


def run_missing(arguments: argparse.Namespace) -> None:
    """Train and measure every (run, seed) that OUT has no file of; the start itself is the run `start`."""
    bench = from_mapping(Bench, read_yaml(arguments.config), arguments.config)
    runs = {name: dict(values or {}) for name, values in bench.runs.items()}
    unknown = next((name for name in arguments.runs or () if name not in runs), None)
    if unknown is not None:
        raise UserError(f"--runs: {unknown!r} is not in {arguments.config}, which has {', '.join(runs)}")
    shared = {"model": storage.describe(arguments.model)["sha256"], "training": bench.training, "beam": bench.beam,
              "max_active": bench.max_active}  # fmt: skip
    check_setting(arguments.out, shared | {f"run {name}": values for name, values in runs.items()})
    todo = [("start", 0)] + [(name, seed) for seed in arguments.seeds for name in arguments.runs or runs]
    todo = [(name, seed) for name, seed in todo if not (arguments.out / f"{name}_{seed}.json").exists()]
    if not todo:
        return
    corpus = Corpus(arguments.workdir, torch.device(arguments.device))
    decoder = None
    if (corpus.lang / "TLG.fst").is_file():
        decoder = Decoder(corpus.lang, DecodeConfig(beam=bench.beam, max_active=bench.max_active))
    for name, seed in todo:
        row = {"run": name, "seed": seed, "hours": round(corpus.train.hours, 2), "commit": commit()}
        row["device"] = torch.cuda.get_device_name() if corpus.device.type == "cuda" else cpu_name()
        model = storage.load(arguments.model)
        if name != "start":
            row |= trained(model, corpus, bench, name, runs[name], seed)
        row |= measured(model, corpus, decoder)
        with atomic_write(arguments.out / f"{name}_{seed}.json") as stream:
            json.dump(row, stream)


def trained(
    model: AcousticModel, corpus: Corpus, bench: Bench, name: str, values: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Train `model` in place as the run `name` says; what is told of it."""
    settings = from_mapping(Training, {**bench.training, **values.get("training", {})}, f"{name}: training")
    smbr = {key: value for key, value in values.items() if key != "training"}
    by_ctc, lines = name.split("_")[0] == CONTROL, []
    criterion = None if by_ctc else SmbrCriterion(corpus, model, from_mapping(Smbr, smbr, name))

    def log(line: str) -> None:
        lines.append(line)
        print(f"{time.strftime('%H:%M:%S')} {name} {seed}: {line}", file=sys.stderr, flush=True)

    started = time.monotonic()
    train(model, corpus, settings, seed, criterion=criterion, log=log)
    told = {"seconds": round(time.monotonic() - started, 1), "log": lines, "settings": dict(values)}
    return told | ({"smbr_acc": criterion.accuracies} if criterion else {})


def measured(model: AcousticModel, corpus: Corpus, decoder: Decoder | None) -> dict[str, Any]:
    """Errors and reference tokens of every utterance of dev and test."""
    row = {}
    model.to(corpus.device).eval()
    for where in ("dev", "test"):
        data = getattr(corpus, where)
        found = posteriors(model, data)
        row[f"{where}_phone_errors"], row[f"{where}_phones"] = phone_errors(model, data, found)
        if decoder is not None:
            row[f"{where}_word_errors"], row[f"{where}_words"] = word_errors(corpus, data, found, decoder)
    return row


def table(rows: list[Mapping[str, Any]]) -> str:
    """Markdown: a line a run, pooled over its seeds; changes are relative, against the control's same seeds."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["run"], {})[row["seed"]] = row
    kinds = [("dev", "phone"), ("dev", "word"), ("test", "phone"), ("test", "word")]
    kinds = [(where, what) for where, what in kinds if f"{where}_{what}s" in rows[0]]
    heads = [f"{where} {'PER' if what == 'phone' else 'WER'}" for where, what in kinds]
    lines = [f"| run | seeds | {' | '.join(f'{head} | to {CONTROL}' for head in heads)} |"]
    lines.append("|---|---:|" + "---:|" * 2 * len(heads))
    control = runs.get(CONTROL, {})
    for name, seeds in sorted(runs.items(), key=lambda item: (item[0] != "start", item[0] != CONTROL, item[0])):
        cells = [name, str(len(seeds))]
        for where, what in kinds:
            errors, tokens = f"{where}_{what}_errors", f"{where}_{what}s"
            pairs = {seed: (row, control[seed]) for seed, row in seeds.items() if seed in control}
            cells.append(shown(rate(seeds, errors, tokens)))
            cells.append(difference(pairs, errors) if pairs and name not in (CONTROL, "start") else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
