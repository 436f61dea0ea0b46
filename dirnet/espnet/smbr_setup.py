"""What an sMBR training needs beyond CTC's: the phone n-gram of the denominator, the reference, the objective."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dirnet.asr.datadir import read_lines
from dirnet.asr.lexicon import SIL, SPN, find, read_lexicon
from dirnet.asr.phone_ngram import Lattice, PhoneNgram, lattice
from dirnet.asr.tokens import type_of
from dirnet.asr.transcripts import read_transcripts
from dirnet.errors import UserError
from dirnet.espnet.launch import FINAL
from dirnet.files import read_json
from dirnet.nn import storage

CRITERION = ["valid", "smbr_acc", "max"]
OF_CTC = ("distill", "support", "teacher", "blank_bias")  # values of model_conf that mean the same under sMBR


def take_objective(config: dict[str, Any], smbr: Mapping[str, Any], where: Path) -> None:
    """Make `config`, that of a fine-tuning by CTC, one by sMBR: as `smbr`, the config of an sMBR training, says it.

    Learning rate, epochs and the like stay; the best epoch is the one of the highest expected accuracy.
    """
    if smbr.get("model") != "dirnet_smbr":
        raise UserError(f"{where}: model is {smbr.get('model')!r}, expected dirnet_smbr")
    own = config.get("model_conf") or {}
    config["model"] = "dirnet_smbr"
    config["model_conf"] = {**(smbr.get("model_conf") or {}), **{key: own[key] for key in OF_CTC if key in own}}
    config["early_stopping_criterion"], config["best_model_criterion"] = CRITERION, [CRITERION]


def fill(config: dict[str, Any], arguments: argparse.Namespace, phones: Sequence[str], made: Path) -> None:
    """Complete `model_conf`: make the phone n-gram of the order asked for; name the reference.

    The n-gram is estimated on `made/data/train/text` and written to `made`, named as if it were in the experiment.
    The reference is the dense model (`--dense`) for a compressed one, else the model that training starts from.
    """
    conf = config["model_conf"] = dict(config.get("model_conf") or {})
    if arguments.smbr_order is not None:
        conf["smbr_order"] = arguments.smbr_order
    if "phone_ngram" not in conf:
        said = lattices(arguments.data / arguments.train, arguments.lang, made / "data/train/text", phones)
        ngram = PhoneNgram.estimate(said, len(phones), conf.get("smbr_order", 2))
        refuse_other_ngram(ngram, arguments.exp)
        ngram.save(made / "phone_ngram.npz")
        conf["phone_ngram"] = str(arguments.exp / "phone_ngram.npz")
    if arguments.dense:
        conf.setdefault("reference", str(arguments.dense))
    elif arguments.init:
        conf.setdefault("reference", str(arguments.exp / "initial.pth"))


def refuse_other_ngram(ngram: PhoneNgram, exp: Path) -> None:
    """A `UserError` where `exp` holds a training by another n-gram of this order, as of a lexicon that has changed."""
    before = exp / "phone_ngram.npz"
    if not before.exists() or not ((exp / FINAL).exists() or any(exp.glob("checkpoint*.pth"))):
        return
    old = PhoneNgram.load(before)
    if old.order == ngram.order and not old.equals(ngram):
        raise UserError(f"{exp} holds a training with other pronunciations or transcripts: its phone n-gram {before} "
                        "is another one; take the change back, remove the folder or give another one")  # fmt: skip


def lattices(data: Path, lang: Path, used: Path, phones: Sequence[str]) -> Iterator[Lattice]:
    """What may be said in the utterances of the file `used` (lines `UTT P1 P2 ...`).

    Their words in `data/text` through `lang/lexicon.txt`, with every pronunciation, and with optional silence where
    `lang/lang.json` says that transcripts have it; the tokens of `used` themselves without those two files, and for
    other tokens than phones, which write a word in one way.
    """
    place = {phone: number for number, phone in enumerate(phones)}
    lines = [line.split() for line in read_lines(used)]
    as_said = ([[(1.0, [place[phone] for phone in said])]] for _, *said in lines)
    if type_of(phones).name != "phn":
        return as_said
    if not (data / "text").is_file() or not (lang / "lexicon.txt").is_file():
        print(f"phone n-gram: {data}/text or {lang}/lexicon.txt is missing; from phone transcripts, without variants")
        return as_said
    words, lexicon = read_transcripts(data / "text"), read_lexicon(lang / "lexicon.txt")
    silence = (read_json(lang / "lang.json") or {}).get("silence", "none")
    pause = SIL if silence != "none" else None

    def pronounce(word: str) -> Sequence[Sequence[str]]:
        return find(word, lexicon) or [(SPN,)]  # as in the phone transcripts

    if lost := next((name for name, *_ in lines if name not in words), None):
        raise UserError(f"{data}/text lacks utterance {lost}, which {used} has; make the transcripts again (stage 2)")
    return (lattice(words[name], pronounce, place, pause, silence == "words") for name, *_ in lines)


def reference_digest(config: Mapping[str, Any]) -> str | None:
    """The sha256 of the reference, where that is a neutral model."""
    reference = (config.get("model_conf") or {}).get("reference")
    folder = reference and Path(reference)
    return storage.describe(folder)["sha256"] if folder and (folder / storage.DESCRIPTION).exists() else None
