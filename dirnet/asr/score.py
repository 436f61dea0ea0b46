"""Word and token error rates: totals with a bootstrap interval, every utterance's counts, trn files, and sclite's view.

The counts are jiwer's (least number of edits). sclite, when installed, aligns with its own weights (substitution 4,
deletion and insertion 3): its number of edits is the same or, rarely, a little higher.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np

from dirnet.asr.datadir import read_table
from dirnet.asr.transcripts import read_transcripts
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.options import Parser, place

SAMPLES = 2000  # bootstrap samples
LEAST_SPEAKERS = 20  # with fewer, the interval is over utterances
SCLITE = "/usr/lib/sctk/bin/sclite"  # where Debian's package `sctk` puts it, outside PATH
SUFFIX = {"wer": "", "per": "_phones", "cer": "_chars", "ter": "_tokens"}  # of the file names


@dataclass(frozen=True)
class Counts:
    """Edits that turn the reference of one utterance into its hypothesis."""

    utterance: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """Edits of all three kinds."""
        return self.substitutions + self.deletions + self.insertions


def count(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, Sequence[str]]) -> list[Counts]:
    """Align every reference with its hypothesis; a missing hypothesis is empty: all its tokens are deletions."""
    names = list(references)
    hypothesis = [list(hypotheses.get(name, ())) for name in names]
    output = jiwer.process_words([" ".join(references[n]) for n in names], [" ".join(words) for words in hypothesis])
    rows = []
    for name, words, chunks in zip(names, hypothesis, output.alignments, strict=True):
        edits = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
        for chunk in chunks:
            length = chunk.ref_end_idx - chunk.ref_start_idx or chunk.hyp_end_idx - chunk.hyp_start_idx
            edits[chunk.type] += length
        rows.append(
            Counts(name, tuple(references[name]), tuple(words), edits["substitute"], edits["delete"], edits["insert"])
        )
    return rows


def interval(errors: np.ndarray, tokens: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of sum(errors) / sum(tokens) over units (n,): utterances, or speakers' sums.

    Of (seeds, n) seeds are drawn too, the same ones for all units.
    """
    draws = np.random.default_rng(seed)
    errors, tokens = np.atleast_2d(errors), np.atleast_2d(tokens)
    seeds, count = errors.shape
    rates = []
    for _ in range(samples):
        drawn = draws.integers(count, size=count)
        if seeds > 1:
            drawn = np.ix_(draws.integers(seeds, size=seeds), drawn)
        else:
            drawn = (slice(None), drawn)
        rates.append(errors[drawn].sum() / tokens[drawn].sum())
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def summarize(rows: Sequence[Counts], speakers: Mapping[str, str] | None = None) -> dict:
    """Totals in counts and per cent; the interval is over speakers where `speakers` (id -> speaker) names enough."""
    units = {row.utterance: row.utterance for row in rows}
    over = "utterances"
    if speakers and len({speakers.get(row.utterance, "") for row in rows}) >= LEAST_SPEAKERS:
        units, over = {row.utterance: speakers.get(row.utterance, "") for row in rows}, "speakers"
    order = {unit: number for number, unit in enumerate(dict.fromkeys(units.values()))}
    index = [order[units[row.utterance]] for row in rows]
    errors = np.bincount(index, [row.errors for row in rows])
    tokens = np.bincount(index, [len(row.reference) for row in rows])
    low, high = interval(errors, tokens)
    return {
        "percent": 100 * float(errors.sum() / tokens.sum()),
        "percent_low": 100 * low,
        "percent_high": 100 * high,
        "interval": f"95 % bootstrap over {len(order)} {over}",
        "errors": int(errors.sum()),
        "substitutions": sum(row.substitutions for row in rows),
        "deletions": sum(row.deletions for row in rows),
        "insertions": sum(row.insertions for row in rows),
        "tokens": int(tokens.sum()),
        "utterances": len(rows),
        "wrong_utterances": sum(row.errors > 0 for row in rows),
    }


def find_sclite() -> str | None:
    """The path of sclite, or None where it is not installed."""
    return shutil.which("sclite") or (SCLITE if os.access(SCLITE, os.X_OK) else None)


def sclite(program: str, reference: Path, hypothesis: Path) -> dict | None:
    """sclite's totals of two trn files (case-sensitive), or None when it gives none."""
    with tempfile.TemporaryDirectory() as folder:
        for name, source in (("ref.trn", reference), ("hyp.trn", hypothesis)):
            shutil.copy(source, os.path.join(folder, name))
        command = [program, "-s", "-e", "utf-8", "-i", "spu_id", "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn",
                   "-o", "rsum", "stdout"]  # fmt: skip
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"^\s*\|\s*Sum\s*\|(.*)\|(.*)\|", result.stdout, re.MULTILINE)
    if result.returncode or not found:
        return None
    _, tokens = map(int, found[1].split())
    _, substitutions, deletions, insertions, errors, _ = map(int, found[2].split())
    return {"percent": 100 * errors / tokens, "errors": errors, "substitutions": substitutions,
            "deletions": deletions, "insertions": insertions, "tokens": tokens}  # fmt: skip


def write_trn(path: Path, transcripts: Mapping[str, Sequence[str]]) -> None:
    """Write `word word (utt-id)` lines."""
    with atomic_write(path) as stream:
        stream.writelines(f"{' '.join(tokens)} ({name})\n" for name, tokens in transcripts.items())


def _read_speakers(reference: Path, given: str) -> dict[str, str] | None:
    path = Path(given) if given else reference.parent / "utt2spk"
    if not given and not path.exists():
        return None
    return read_table(path)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Score hypotheses: OUT/{wer.json,per_utt.tsv,ref.trn,hyp.trn}, or the same with `per` and `_phones`, ..."""
    parser = Parser(prog="python -m dirnet.asr.score", description=main.__doc__)
    parser.add_argument("--ref", required=True, help="Kaldi text (or text_phones) file of the references")
    parser.add_argument("--hyp", required=True, help="the same of the hypotheses")
    parser.add_argument("--out", required=True, type=place, help="folder to write to")
    parser.add_argument("--metric", default="wer", choices=tuple(SUFFIX),
                        help="what the tokens are: words, phones (per), characters (cer) or others (ter)")  # fmt: skip
    parser.add_argument("--utt2spk", default="", help="speakers for the interval; default: the file beside --ref")
    arguments = parser.parse_args(argv)
    out, suffix = arguments.out, SUFFIX[arguments.metric]
    references = read_transcripts(arguments.ref)
    hypotheses = read_transcripts(arguments.hyp, allow_empty=True)
    missing = [name for name in references if name not in hypotheses]
    extra = [name for name in hypotheses if name not in references]
    if len(missing) == len(references):
        raise UserError(f"no utterance of {arguments.ref} is in {arguments.hyp}; are they of the same set?")

    rows = count(references, hypotheses)
    result = {"metric": arguments.metric, **summarize(rows, _read_speakers(Path(arguments.ref), arguments.utt2spk))}
    result["missing"] = missing
    with atomic_write(out / f"per_utt{suffix}.tsv") as stream:
        stream.write("id\tref\thyp\tS\tD\tI\tN\n")
        for row in rows:
            texts = f"{row.utterance}\t{' '.join(row.reference)}\t{' '.join(row.hypothesis)}"
            stream.write(f"{texts}\t{row.substitutions}\t{row.deletions}\t{row.insertions}\t{len(row.reference)}\n")
    write_trn(out / f"ref{suffix}.trn", {row.utterance: row.reference for row in rows})
    write_trn(out / f"hyp{suffix}.trn", {row.utterance: row.hypothesis for row in rows})
    program = find_sclite()
    if program:
        result["sclite"] = sclite(program, out / f"ref{suffix}.trn", out / f"hyp{suffix}.trn")
    with atomic_write(out / f"{arguments.metric}.json") as stream:
        json.dump(result, stream, indent=1)

    if missing:
        print(f"warning: {len(missing)} utterances have no hypothesis and count as deletions: {_few(missing)}")
    if extra:
        print(f"warning: {len(extra)} hypotheses have no reference and are left out: {_few(extra)}")
    print(
        f"{arguments.metric.upper()} {result['percent']:.2f} %"
        f" [{result['percent_low']:.2f}, {result['percent_high']:.2f}]"
        f" = {result['errors']} / {result['tokens']} (S {result['substitutions']}, D {result['deletions']},"
        f" I {result['insertions']}) -> {out}/{arguments.metric}.json"
    )
    return 0


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


if __name__ == "__main__":
    main()
