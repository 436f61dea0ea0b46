"""Calibration data for any ESPnet model: utterances of a Kaldi dir or a `dump` set, through ESPnet's own loading."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dirnet.asr.ark import READER_ERRORS
from dirnet.asr.transcripts import read_transcripts
from dirnet.errors import UserError
from dirnet.espnet.source import task_class

IN_ARCHIVE = re.compile(r"\.ark:\d+$")
MORE = {"s2t": {"text_prev": "text.prev", "text_ctc": "text.ctc"}, "st": {"src_text": "src_text"}}  # name: file


class Utterances(Sequence[dict[str, Any]]):
    """Keyword arguments of the model's `forward`, one utterance each, of `utterances` drawn from `folder`, or all.

    One at a time: there is no padding then, which layers that are not fed packed sequences would take for speech. Audio
    and features stay on the disk until they are asked for. config: with paths that hold from here. folder: `wav.scp` or
    `feats.scp` as the model's input asks, `text` and what else the task trains with; for a language model also the text
    file itself. Equal seeds draw the same. A folder that lacks a file, segments without audio of their own, an empty
    one, and, when it is asked for, an utterance that cannot be read are `UserError`s.
    """

    def __init__(self, task: str, config: Mapping[str, Any], folder: Path, utterances: int, seed: int = 0):
        from espnet2.train.dataset import ESPnetDataset

        self._folder, owner, arguments = folder, task_class(task), argparse.Namespace(**config)
        text = folder if task == "lm" and folder.is_file() else folder / "text"
        data = [] if task == "lm" else [(*_speech(folder, config), "speech")]
        data.append((text, "text", "text"))
        data += [(folder / file, "text", key) for key, file in MORE.get(task, {}).items() if (folder / file).is_file()]
        for path, _, _ in data:
            if not path.is_file():
                raise UserError(f"{path} does not exist; give --data a Kaldi data dir or a dump set with {path.name}")
        names = np.array(list(read_transcripts(text, allow_empty=True)))
        self._names = names[np.sort(np.random.default_rng(seed).permutation(len(names))[:utterances])].tolist()
        with _refused(f"--data {folder}"), _quietly():
            self._collate = owner.build_collate_fn(arguments, train=False)
            preprocess = owner.build_preprocess_fn(arguments, train=False)
            self._data = ESPnetDataset([(str(path), key, kind) for path, kind, key in data], preprocess)
            owner.check_task_requirements(self._data, False, train=False)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> dict[str, Any]:
        name = self._names[number]
        with _refused(f"--data {self._folder}: utterance {name}"), _quietly():
            return self._collate([self._data[name]])[1]

    def shuffled(self, seed: int) -> Utterances:
        """The same utterances in random order."""
        moved = copy.copy(self)
        moved._names = random.Random(seed).sample(self._names, len(self._names))
        return moved


@contextlib.contextmanager
def _refused(what: str) -> Iterator[None]:
    """What ESPnet's readers raise, as one line."""
    try:
        yield
    except (*READER_ERRORS, LookupError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what} cannot be read ({first}); mend that, or run fix_data_dir.sh") from None


def _speech(folder: Path, config: Mapping[str, Any]) -> tuple[Path, str]:
    """The scp file with the model's input, and ESPnet's name for what it lists."""
    if config.get("input_size"):
        return folder / "feats.scp", "kaldi_ark"
    scp = folder / "wav.scp"
    if (folder / "segments").exists():
        raise UserError(f"{folder} has segments of longer recordings; give the set of dump/raw, where they are cut out")
    with contextlib.suppress(FileNotFoundError):
        first = scp.read_text(encoding="utf-8").partition("\n")[0].strip()
        if first.endswith("|") or IN_ARCHIVE.search(first):
            return scp, "kaldi_ark"
    return scp, "sound"


@contextlib.contextmanager
def _quietly():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
