"""A toy language, small enough to train on in a second."""

from __future__ import annotations

import numpy as np
import pytest

from dirnet.asr.ark import write_ark
from dirnet.asr.lexicon import OUTPUTS

CONFIG = """rnn_type: gru
num_layers: 1
hidden_size: 32
frame_stride: 1
train: {epochs: 6, rate: 2.0e-2, batch: 4, channel: 0, time_masks: 1}
finetune: {epochs: 2, rate: 5.0e-3, batch: 4, distill: 0.5}
methods: [svd]
sizes: [3x]
"""


@pytest.fixture
def work(tmp_path):
    """A prepared work folder: every phone is a vector of its own, four frames long."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(42, 26)).astype(np.float32)
    frames = []
    for name, number in (("train", 24), ("dev", 4), ("test", 4)):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        spoken = {f"{name}{n}": rng.integers(1, 5, size=rng.integers(3, 7)) for n in range(number)}
        lines = [f"{utterance} {' '.join(OUTPUTS[p] for p in phones)}\n" for utterance, phones in spoken.items()]
        (folder / "text_phones").write_text("".join(lines))
        (folder / "text").write_text("".join(lines))
        dump = tmp_path / "dump/mfcc" / name
        dump.mkdir(parents=True)
        with write_ark(dump / "f.ark", dump / "feats.scp", compress=False) as writer:
            for utterance, phones in spoken.items():
                matrix = np.repeat(vectors[phones], 4, axis=0)
                frames.append(matrix + 0.1 * rng.normal(size=matrix.shape).astype(np.float32))
                writer.write(utterance, frames[-1])
    every = np.concatenate(frames)
    statistics = {"count": len(every), "sum": every.sum(0), "sum_square": np.square(every).sum(0)}
    np.savez(tmp_path / "dump/mfcc/train/cmvn.npz", **statistics)
    (tmp_path / "data/lang").mkdir()
    (tmp_path / "data/lang/tokens.txt").write_text("\n".join(OUTPUTS) + "\n<unk>\n<sos/eos>\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path
