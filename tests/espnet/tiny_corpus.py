"""A corpus of a few seconds, made of 26-dimensional "phones", and how ESPnet is run on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from dirnet.asr.ark import write_ark

ROOT = Path(__file__).resolve().parents[2]
PHONES = ["AA", "B", "K", "S", "SIL", "SPN"]
TOKENS = ["<blank>", *PHONES, "<unk>", "<sos/eos>"]
FEATURES = 26


def make_set(root: Path, name: str, utterances: int, seed: int) -> None:
    """Tables in `data/NAME`, features in `dump/NAME`: each phone is a noisy constant of 6-10 frames."""
    means = np.random.default_rng(7).normal(0, 3, (len(PHONES), FEATURES))
    noise = np.random.default_rng(seed)
    data, dump = root / "data" / name, root / "dump" / name
    data.mkdir(parents=True)
    text, frames = {}, {}
    with write_ark(dump / "feats.ark", dump / "feats.scp") as ark:
        for number in range(utterances):
            key = f"{name}-{number:03d}"
            said = noise.integers(0, len(PHONES) - 1, noise.integers(3, 7))
            rows = np.repeat(said, noise.integers(6, 11, len(said)))
            ark.write(key, (means[rows] + noise.normal(0, 1, (len(rows), FEATURES))).astype(np.float32))
            text[key], frames[key] = " ".join(PHONES[phone] for phone in said), len(rows)
    for file, table in (("text_phones", text), ("utt2num_frames", frames)):
        (data / file).write_text("".join(f"{key} {value}\n" for key, value in table.items()))


def make_corpus(root: Path) -> Path:
    """Sets `train` (48 utterances) and `dev` (12), token list and statistics."""
    make_set(root, "train", 48, seed=1)
    make_set(root, "dev", 12, seed=2)
    count = 1000.0
    mean, variance = np.full(FEATURES, 0.1), np.full(FEATURES, 9.0)
    statistics = {"count": count, "sum": mean * count, "sum_square": (variance + mean**2) * count}
    np.savez(root / "dump/train/cmvn.npz", **statistics)
    (root / "data/lang").mkdir()
    (root / "data/lang/tokens.txt").write_text("\n".join(TOKENS) + "\n")
    return root


def write_config(path: Path, base: str = "conf/mini/train_ctc.yaml", **changes) -> Path:
    """The shipped config `base` with some values changed; a mapping updates, None removes."""
    config = yaml.safe_load((ROOT / base).read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        elif isinstance(value, dict):
            config[key] = {**config.get(key, {}), **value}
        else:
            config[key] = value
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass(frozen=True)
class Trained:
    """A corpus, and a config with which a model was trained on it in the folder `exp`."""

    root: Path
    config: Path
    exp: Path

    def options(self, config: Path, exp: Path, *more: object) -> list[str]:
        """The command line of `dirnet.espnet.train` on this corpus."""
        root = self.root
        folders = ["--data", root / "data", "--dump", root / "dump", "--lang", root / "data/lang"]
        return [str(word) for word in ["--config", config, "--exp", exp, *folders, *more]]

    def train(self, config: Path, exp: Path, *more: object) -> int:
        """Run `dirnet.espnet.train` in this process, which has ESPnet loaded already; returns its exit status."""
        from dirnet.espnet.train import main

        with pytest.raises(SystemExit) as stopped:
            main(self.options(config, exp, *more))
        return stopped.value.code or 0
