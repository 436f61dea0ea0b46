"""Perplexity of language models by ESPnet's own `lm_calc_perplexity`: several in one process.

Per word, the end of each sentence counted as one; every sentence is read from a zero state. Words that the vocabulary
lacks are `<unk>`, which the model predicts like any other.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dirnet.asr import score
from dirnet.errors import UserError, one_line_errors
from dirnet.espnet.launch import FINAL, logged
from dirnet.espnet.versions import imported
from dirnet.files import atomic_write, read_json
from dirnet.options import Parser

SAMPLES = 1000  # of the bootstrap
BATCH = 32  # sentences


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write DIR/ppl_NAME/ppl.json for every model; one that is there already is left alone."""
    parser = Parser(prog="python -m dirnet.espnet.perplexity", description=__doc__)
    parser.add_argument("--exp", required=True, type=Path, nargs="+", help="folders with config.yaml and model.pth")
    parser.add_argument("--data", required=True, type=Path, help="the folder of the set, holds text")
    arguments = parser.parse_args(argv)
    text = arguments.data / "text"
    for path in [text, *(exp / name for exp in arguments.exp for name in ("config.yaml", FINAL))]:
        if not path.exists():
            raise UserError(f"{path} does not exist; run the stages before this one first")
    of_text = _sha256(text)
    for exp in arguments.exp:
        out, key = exp / f"ppl_{arguments.data.name}", {"model": _sha256(exp / FINAL), "text": of_text}
        result = read_json(out / "ppl.json")
        known = result is not None and result["key"] == key
        if not known:
            result = {"key": key, "set": arguments.data.name, **evaluate(exp, text, out)}
            with atomic_write(out / "ppl.json") as stream:
                json.dump(result, stream, indent=1, allow_nan=False)
        interval = f"[{result['low']:.2f}, {result['high']:.2f}]"
        done = ", already done" if known else ""
        print(f"{exp}: perplexity {result['perplexity']:.2f} {interval}, {result['tokens']:,} words{done}", flush=True)
    return 0


def evaluate(exp: Path, text: Path, out: Path) -> dict[str, Any]:
    """Perplexity of the model in `exp`, its 95 % bootstrap interval over sentences, and each sentence's loss in nats.

    ESPnet leaves `ppl`, `utt2ppl` and `utt2ntokens` in `out`. A sentence without a finite perplexity is a `UserError`.
    """
    imported("dirnet.espnet.lm_task")  # registers compressed models
    program = imported("espnet2.bin.lm_calc_perplexity")
    out.mkdir(parents=True, exist_ok=True)
    options = ["--output_dir", out, "--train_config", exp / "config.yaml", "--model_file", exp / FINAL, "--num_workers",
               0, "--batch_size", BATCH, "--data_path_and_name_and_type", f"{text},text,text"]  # fmt: skip
    with logged(out / "perplexity.log"):
        program.main([str(option) for option in options])
    told = [dict(line.split() for line in (out / name).read_text().splitlines()) for name in ("utt2ppl", "utt2ntokens")]
    bad = next((name for name, value in told[0].items() if not math.isfinite(float(value))), None)
    if bad is not None:
        raise UserError(f"{exp}: the perplexity of sentence {bad} is {told[0][bad]}, the model has diverged; remove "
                        "the folder and train again with a lower learning rate")  # fmt: skip
    words = np.array([int(told[1][name]) for name in told[0]])
    nats = np.log([float(value) for value in told[0].values()]) * words
    low, high = np.exp(score.interval(nats, words, SAMPLES)).tolist()
    return {"perplexity": float(np.exp(nats.sum() / words.sum())), "low": low, "high": high, "tokens": int(words.sum()),
            "sentences": len(words), "nats": nats.round(5).tolist(), "words": words.tolist()}  # fmt: skip


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()
