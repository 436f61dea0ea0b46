"""Calibration data for any ESPnet model: utterances of a Kaldi dir or a `dump` set, through ESPnet's own loading."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dirnet.asr.transcripts import read_transcripts
from dirnet.errors import UserError
from dirnet.espnet.source import task_class

IN_ARCHIVE = re.compile(r"\.ark:\d+$")
MORE = {"s2t": {"text_prev": "text.prev", "text_ctc": "text.ctc"}, "st": {"src_text": "src_text"}}  # name: file


def read_batches(
    task: str, config: Mapping[str, Any], folder: Path, utterances: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Keyword arguments of the model's `forward`, one utterance each, of `utterances` drawn from `folder`, or all.

    One at a time: there is no padding then, which layers that are not fed packed sequences would take for speech.
    config: with paths that hold from here. folder: `wav.scp` or `feats.scp` as the model's input asks, `text` and what
    else the task trains with; for a language model also the text file itself. Equal seeds draw the same. A folder
    that lacks a file, segments without audio of their own, an empty one, and an utterance that cannot be read are
    `UserError`s.
    """
    owner = task_class(task)
    text = folder if task == "lm" and folder.is_file() else folder / "text"
    data = [] if task == "lm" else [(*_speech(folder, config), "speech")]
    data.append((text, "text", "text"))
    data += [(folder / file, "text", name) for name, file in MORE.get(task, {}).items() if (folder / file).is_file()]
    for path, _, _ in data:
        if not path.is_file():
            raise UserError(f"{path} does not exist; give --data a Kaldi data dir or a dump set with {path.name}")
    names = np.array(list(read_transcripts(text, allow_empty=True)))
    drawn = names[np.sort(np.random.default_rng(seed).permutation(len(names))[:utterances])]
    arguments = argparse.Namespace(**config)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".keys") as keys, _quietly():
        keys.write("".join(f"{name}\n" for name in drawn))
        keys.flush()
        loader = owner.build_streaming_iterator(
            [(str(path), name, kind) for path, kind, name in data],
            preprocess_fn=owner.build_preprocess_fn(arguments, train=False),
            collate_fn=owner.build_collate_fn(arguments, train=False),
            key_file=keys.name,
            dtype="float32",
            num_workers=0,
        )
        batches: list[dict[str, Any]] = []
        try:
            for _, batch in loader:
                batches.append(batch)
        except (AssertionError, EOFError, KeyError, OSError, RuntimeError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            name = drawn[len(batches)]
            raise UserError(
                f"--data {folder}: utterance {name} cannot be read ({first}); mend that, or run fix_data_dir.sh"
            ) from None
    return batches


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
