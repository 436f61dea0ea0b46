"""Small acoustic models, and programs exported once for all tests of this folder."""

from __future__ import annotations

import math

import pytest
import torch

from dirnet.deploy.export import export
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.grouping import GATES

PHONES = ("<blank>", *(f"P{n}" for n in range(41)))


def make_model(rnn_type="lstm", *, hidden=24, layers=2, atoms=10, density=0.3, block=1, dense=False, seed=0, **config):
    """An acoustic model with random weights; its compression has `atoms` (None: pruning) and that density (None: 1)."""
    gates = {"lstm": GATES["LSTM"], "gru": GATES["GRU"], "rnn": GATES["RNN_TANH"]}[rnn_type] * hidden
    layout = []
    for group in range(layers + 1):
        rows = (19 * 26 if group == 0 else hidden) if atoms is None else atoms
        columns = gates * (2 if 0 < group < layers else 1)
        layout.append([atoms, None if density is None else math.ceil(density * rows * columns / block)])
    generator = torch.Generator().manual_seed(seed)
    mean, scale = torch.randn(26, generator=generator) * 10, torch.rand(26, generator=generator) + 0.1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AcousticModel(
            AcousticModelConfig(
                rnn_type=rnn_type, hidden_size=hidden, num_layers=layers, phones=PHONES, block=1 if dense else block,
                cmvn_mean=tuple(mean.tolist()), cmvn_istd=tuple(scale.tolist()), mfcc={"num_ceps": 26},
                compression=None if dense else tuple(layout), name="dense" if dense else "compressed", **config,
            )  # fmt: skip
        ).eval()


@pytest.fixture(scope="session")
def model_of():
    """The factory `make_model`."""
    return make_model


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Folders with a neutral model and its encoder.pte: `compressed` (dirnet), `dense` (xnnpack)."""
    root = tmp_path_factory.mktemp("exp")
    for name, dense, backend in (("compressed", False, "dirnet"), ("dense", True, "xnnpack")):
        storage.save(make_model(dense=dense, block=8), root / name)
        export(root / name, root / name / "encoder.pte", backend)
    return root
