"""What running a model as a phone does costs in accuracy: torch against the exported program, on the same test set.

    python -m bench.program_accuracy --workdir WORK MODEL...

WORK is a recipe folder (see bench/accuracy.py), a MODEL a folder with model.safetensors and model.json. Every model is
exported, with int8 kernels where it is an int8 model, and its posteriors compared with those of torch, which computes
with the same weights but does not round what they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.corpus import Corpus, Set
from bench.ctc import phone_errors, posteriors, word_errors
from dirnet.asr import score
from dirnet.asr.decode import DecodeConfig, Decoder
from dirnet.deploy.export import DEFAULT_CHUNK, build
from dirnet.deploy.program import Program
from dirnet.errors import one_line_errors
from dirnet.nn import storage
from dirnet.options import Parser
from dirnet.progress import progress


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print a Markdown table, a line a model."""
    parser = Parser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--workdir", required=True, type=Path, help="a recipe folder with stages 0 to 2 done")
    options = parser.parse_args(argv)
    corpus = Corpus(options.workdir, torch.device("cpu"))
    decoder = Decoder(corpus.lang, DecodeConfig()) if (corpus.lang / "TLG.fst").is_file() else None
    print(f"{len(corpus.test.names)} test utterances; differences paired, with 95 % bootstrap intervals\n")
    print("| model | values | program bytes | PER torch | PER program | difference | WER torch | WER program |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for folder in options.models:
        model = storage.load(folder)
        content = build(model, "dirnet", DEFAULT_CHUNK["dirnet"])[0].content
        program = Program(folder.name, content)
        both = [posteriors(model, corpus.test), streamed(program, corpus.test)]
        (before, phones), (after, _) = (phone_errors(model, corpus.test, found) for found in both)
        words = ["", ""]
        if decoder is not None:
            counted = [word_errors(corpus, corpus.test, found, decoder) for found in both]
            words = [f"{100 * sum(errors) / sum(total):.2f}" for errors, total in counted]
        rates = [f"{100 * sum(errors) / sum(phones):.2f}" for errors in (before, after)]
        cells = [folder.name, program.dtype, f"{len(content):,}", *rates, difference(before, after, phones), *words]
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0


def streamed(program: Program, data: Set) -> dict[str, Tensor]:
    """Log posteriors (T', outputs) of every utterance by the program, chunk by chunk."""
    found = {}
    for part in progress(data.batches(1), len(data.names), "stream", "utterance"):
        name = data.names[int(part.rows)]
        found[name] = program.stream(part.features[0, : int(part.lengths)]).log_softmax(dim=-1)
    return found


def difference(before: Sequence[int], after: Sequence[int], tokens: Sequence[int]) -> str:
    """Percentage points that errors went up by, and its interval over utterances drawn with replacement."""
    more, total = np.subtract(after, before), np.array(tokens)
    low, high = score.interval(more, total)
    return f"{100 * more.sum() / total.sum():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


if __name__ == "__main__":
    main()
