"""Pack a model for the ESPnet model zoo (stage 9).

    import dirnet.espnet
    from espnet2.bin.asr_inference import Speech2Text
    recognise = Speech2Text.from_pretrained("model.zip", ctc_weight=1.0, lm_weight=0.0, beam_size=10)
    phones = recognise(audio)[0][0]     # audio: (n,) float in -1..1 at the model's sampling rate
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from dirnet.asr.features import MfccConfig
from dirnet.asr.tokens import BPE_MODEL, type_of
from dirnet.config import from_mapping
from dirnet.errors import UserError, one_line_errors
from dirnet.espnet import checkpoint, experiment, zoo
from dirnet.espnet.card import About, card
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel
from dirnet.options import Parser, place

OPTIONAL = ("lexicon.txt", "tokens.txt", BPE_MODEL)  # of the lang folder
ESPNET_TYPES = {"phn": "word", "word": "word", "char": "char", "bpe": "bpe"}  # joined by blanks, by nothing, by BPE
RESULTS = ("start/compression.json", "rtf.json", "curves.json")  # of the experiment


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write zips that `Speech2Text.from_pretrained` reads: raw audio in, phones out; ESPnet is imported once."""
    parser = Parser(prog="python -m dirnet.espnet.pack", description=__doc__)
    parser.add_argument("--exp", required=True, nargs="+", type=place,
                        help="folders with model.safetensors and model.json")  # fmt: skip
    parser.add_argument("--lang", default=Path("data/lang"), type=Path, help="its lexicon.txt and tokens.txt go along")
    parser.add_argument("--out", type=place, help="the zip to write for a single --exp; default: EXP/model.zip")
    parser.add_argument("--language", help="of the model card, e.g. en (default: not told)")
    parser.add_argument("--license", help="of the model card, e.g. cc-by-4.0 (default: not told)")
    parser.add_argument("--dataset", default=[], nargs="+", help="training corpora, for the model card")
    arguments = parser.parse_args(argv)
    about = About(arguments.language, arguments.license, tuple(arguments.dataset))
    if arguments.out and len(arguments.exp) > 1:
        raise UserError(f"--out {arguments.out} is one file for {len(arguments.exp)} --exp; leave it out")
    for exp in arguments.exp:
        out = arguments.out or exp / "model.zip"
        pack(exp, arguments.lang, out, about)
        print(f"{out}: {out.stat().st_size} bytes", flush=True)
    return 0


def pack(exp: Path, lang: Path, out: Path, about: About | None = None) -> None:
    """Stage everything in one folder, since the zoo's paths are relative, and let ESPnet's packer make the zip.

    The zip takes its name only after `zoo.check` has loaded it.
    """
    model = storage.load(exp)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    with scratch as name, checkpoint.full_disk_told(out.parent):
        stage = Path(name)
        extra = [stage / "cmvn.npz", stage / "README.md"]
        np.savez(extra[0], **statistics(model))
        extra[1].write_text(card(exp, model, out.name, about), encoding="utf-8")
        for source in [exp / storage.DESCRIPTION, *(lang / n for n in OPTIONAL), *(exp / n for n in RESULTS)]:
            if source.exists():
                shutil.copyfile(source, stage / source.name)
                extra.append(stage / source.name)
        config = espnet_config(model)
        (stage / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        torch.save(checkpoint.espnet_state(model, len(config["token_list"]), stored=True), stage / "model.pth")
        command = ["asr", "--asr_train_config", "config.yaml", "--asr_model_file", "model.pth"]
        for path in extra:
            command += ["--option", path.name]
        with contextlib.chdir(stage), contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("espnet2.bin.pack").main([*command, "--outpath", "packed.zip"])
        zoo.check(stage / "packed.zip")
        os.replace(stage / "packed.zip", out)


def espnet_config(model: AcousticModel) -> dict[str, Any]:
    """An ESPnet training configuration that builds `model` with audio as its input; no path but in the package."""
    task, kind = experiment.espnet_task(), type_of(model.config.phones).name
    mfcc = from_mapping(MfccConfig, dict(model.config.mfcc), "the model's mfcc")
    parts = {
        "token_list": [*model.config.phones, *checkpoint.EXTRA_TOKENS],
        "token_type": ESPNET_TYPES[kind],
        "bpemodel": BPE_MODEL if kind == "bpe" else None,
        "frontend": "mfcc",
        "frontend_conf": {"mfcc": dataclasses.asdict(mfcc)},
        "specaug": None,
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "cmvn.npz"},
        "preencoder": "splice",
        "preencoder_conf": {"input_size": model.config.feature_size, "context": model.config.context},
        "encoder": "dirnet_rnn",
        "encoder_conf": checkpoint.encoder_conf(model),
        "model": "dirnet_ctc",
        "model_conf": {"ctc_weight": 1.0},
    }
    parser = task.get_parser()
    config = {action.dest: parser.get_default(action.dest) for action in parser._actions}
    config = {**config, **parts, "version": importlib.import_module("espnet").__version__}
    return json.loads(json.dumps({key: value for key, value in config.items() if key not in ("help", "config")}))


def statistics(model: AcousticModel) -> dict[str, Any]:
    """Sums over one imagined frame that give the model's mean and deviation."""
    mean, std = model.cmvn_mean.double(), 1 / model.cmvn_istd.double()
    return {"count": 1.0, "sum": mean.numpy(), "sum_square": (std.square() + mean.square()).numpy()}


if __name__ == "__main__":
    main()
