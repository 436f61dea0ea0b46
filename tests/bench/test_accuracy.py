"""The accuracy bench on a toy language: every kind of method is compressed, tuned, measured and not run twice."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import accuracy
from dirnet.asr.ark import write_ark
from dirnet.asr.lexicon import OUTPUTS
from dirnet.nn import storage

METHODS = ["svd", "dirnet_b8_int8", "prune_gradual", "dirnet_regrow", "small"]
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


def test_every_method_is_measured_before_and_after(work, program):
    folders = ("--workdir", work, "--config", work / "config.yaml", "--out", work / "out")
    options = (*folders, "--seeds", 0, "--device", "cpu")
    status, _, error = program(accuracy.main, *options, "--methods", *METHODS)
    assert status == 0, error
    rows = [json.loads(line) for line in (work / "out/results.jsonl").read_text().splitlines()]
    assert [(row["method"], row["stage"]) for row in rows] == [
        (method, stage) for method in ("dense", *METHODS) for stage in ("before", "after")
    ]
    dense = rows[1]
    for row in rows:
        assert len(row["phone_errors"]) == 4 and "words" not in row  # there is no graph
        if row["method"] != "dense":
            assert row["params"] <= dense["params"] / 3
            saved = storage.load(work / f"out/{row['method']}_3x_0")  # the support came to rest at the budget
            assert sum(parameter.numel() for parameter in saved.parameters()) == row["params"]
    status, _, _ = program(accuracy.main, *options, "--methods", *METHODS)
    assert status == 0 and len((work / "out/results.jsonl").read_text().splitlines()) == len(rows)


def test_what_is_missing_is_told(work, program):
    options = ("--config", work / "config.yaml", "--out", work / "out", "--device", "cpu")
    status, _, error = program(accuracy.main, "--workdir", work, *options, "--methods", "svdd")
    assert status == 2 and "method 'svdd' is unknown" in error
    status, _, error = program(accuracy.main, "--workdir", work / "data", *options)
    assert status == 2 and "run stages 0 to 2 of the recipe" in error
