"""Features and phones of a prepared recipe folder (stages 0 to 2), whole in the memory of one device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dirnet.asr.ark import Matrices
from dirnet.asr.transcripts import read_transcripts
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModelConfig

OUTPUTS = 42  # blank, 39 phones, SIL, SPN


@dataclass(frozen=True)
class Batch:
    """features (B, T, 26) float32 and phones (B, U) int64, both padded with zeros, and their lengths (B,)."""

    rows: Tensor
    features: Tensor
    lengths: Tensor
    phones: Tensor
    phone_lengths: Tensor


class Set:
    """Utterances in ascending order of length, their features one after the other in one tensor."""

    def __init__(self, workdir: Path, name: str, tokens: dict[str, int], device: torch.device):
        phones = read_transcripts(workdir / f"data/{name}/text_phones")
        matrices = Matrices(workdir / f"dump/mfcc/{name}/feats.scp")
        features = {utterance: matrices[utterance] for utterance in phones if utterance in matrices}
        self.names = sorted(features, key=lambda utterance: len(features[utterance]))
        self.phones = {utterance: phones[utterance] for utterance in self.names}
        self.lengths = torch.tensor([len(features[utterance]) for utterance in self.names])
        self._starts = self.lengths.cumsum(0) - self.lengths
        self._features = torch.from_numpy(np.concatenate([features[u] for u in self.names])).float().to(device)
        self._targets = [torch.tensor([tokens[phone] for phone in phones[u]]) for u in self.names]

    @property
    def hours(self) -> float:
        """Hours of audio, at 10 ms a frame."""
        return int(self.lengths.sum()) / 360000

    def batches(self, size: int, generator: torch.Generator | None = None, share: float = 1.0) -> Iterator[Batch]:
        """Batches of `size` utterances of like length, in an order that `generator` draws (None: ascending).

        share: the part of all batches that is read.
        """
        rows = torch.arange(len(self.names)).split(size)
        order = range(len(rows)) if generator is None else torch.randperm(len(rows), generator=generator).tolist()
        for at in order[: math.ceil(share * len(rows))]:
            targets = [self._targets[row] for row in rows[at].tolist()]
            lengths, starts = self.lengths[rows[at]], self._starts[rows[at]]
            steps = torch.arange(int(lengths.max()))
            places = (starts[:, None] + steps).clamp_max(len(self._features) - 1).to(self._features.device)
            inside = (steps < lengths[:, None]).to(self._features.device)
            yield Batch(
                rows[at],
                self._features[places] * inside[..., None],
                lengths,
                pad_sequence(targets, batch_first=True),
                torch.tensor([len(target) for target in targets]),
            )


def digest(workdir: str | Path, train: str = "train") -> str:
    """What tells a corpus from others: of the phones of its sets. Stages that were not run are a `UserError`."""
    whole = hashlib.sha256()
    for name in (train, "dev", "test"):
        path = Path(workdir) / f"data/{name}/text_phones"
        if not path.is_file():
            raise UserError(f"{path} does not exist; run stages 0 to 2 of the recipe with --workdir {workdir}")
        whole.update(path.read_bytes())
    return whole.hexdigest()


class Corpus:
    """A training set, dev and test of a recipe folder."""

    def __init__(self, workdir: str | Path, device: torch.device, train: str = "train"):
        workdir = Path(workdir)
        tokens = workdir / "data/lang/tokens.txt"
        if not tokens.is_file():
            raise UserError(f"{tokens} does not exist; run stages 0 to 2 of the recipe with --workdir {workdir}")
        self.lang, self.device = workdir / "data/lang", device
        self.tokens = tokens.read_text(encoding="utf-8").split()[:OUTPUTS]
        ids = {token: number for number, token in enumerate(self.tokens)}
        sets = (train, "dev", "test")
        self.train, self.dev, self.test = (Set(workdir, name, ids, device) for name in sets)
        self.words = {}  # of all sets
        for name in sets:
            self.words.update(read_transcripts(workdir / f"data/{name}/text"))
        statistics = np.load(workdir / f"dump/mfcc/{train}/cmvn.npz")
        self._mean = statistics["sum"] / statistics["count"]
        self._istd = 1 / np.sqrt(statistics["sum_square"] / statistics["count"] - self._mean**2)

    def model_config(self, rnn_type: str, num_layers: int, hidden_size: int, frame_stride: int) -> AcousticModelConfig:
        """The configuration of a model for this corpus."""
        return AcousticModelConfig(
            rnn_type=rnn_type,
            hidden_size=hidden_size,
            num_layers=num_layers,
            frame_stride=frame_stride,
            phones=tuple(self.tokens),
            cmvn_mean=tuple(map(float, self._mean)),
            cmvn_istd=tuple(map(float, self._istd)),
        )
