"""The program `dirnet compress`: compress a stored acoustic model, calibration features read from a Kaldi archive."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dirnet.asr.ark import Matrices
from dirnet.compression import compressor
from dirnet.errors import UserError

BATCH = 20  # utterances


def read_features(scp: str, utterances: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (features (B, T, n) float32 padded with zeros, lengths (B,)) of `utterances` drawn from `scp`, or all.

    Equal seeds draw the same; batches hold utterances of like length. An archive without any is a `UserError`.
    """
    archive = Matrices(scp)
    names = np.array(list(archive))
    if not len(names):
        raise UserError(f"{scp} lists no utterances; give the feats.scp of training data")
    drawn = np.random.default_rng(seed).permutation(len(names))[:utterances]
    matrices = sorted((torch.from_numpy(archive[str(name)].copy()) for name in names[np.sort(drawn)]), key=len)
    for start in range(0, len(matrices), BATCH):
        batch = matrices[start : start + BATCH]
        yield pad_sequence(batch, batch_first=True), torch.tensor([len(matrix) for matrix in batch])


def main(argv: list[str] | None = None) -> None:
    """`dirnet.compression.compressor` with `--calibration FEATS_SCP` and `--calibration_utts N`.

    With `--espnet SOURCE` any model of ESPnet's: `dirnet.espnet.compress`.
    """
    words = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] == "--espnet" for word in words):
        importlib.import_module("dirnet.espnet.compress").main(argv)
    else:
        compressor.main(argv, read=read_features)


if __name__ == "__main__":
    main()
