"""Compressed layers from plain values."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from dirnet import compress
from dirnet.errors import UserError
from dirnet.nn.settings import empty_layer, scatter_support, settings_of


@pytest.mark.parametrize(
    ("dense", "size"),
    [
        (nn.LSTM(8, 12, 2, bidirectional=True, batch_first=True, dropout=0.1), (2, 5, 8)),
        (nn.RNN(8, 12, nonlinearity="relu", bias=False), (5, 2, 8)),
        (nn.GRUCell(8, 12), (2, 8)),
    ],
)
def test_an_empty_copy_takes_the_state_and_says_the_same(dense, size):
    dense = nn.ModuleDict({"layer": dense})
    twin = type(dense["layer"])
    small = compress(dense, "2x", block=2, progress=False, method="odl")[0]["layer"].eval()
    settings = json.loads(json.dumps(settings_of(small)))
    assert settings["block"] == 2 and "dtype" not in settings
    options = {"bias": small.bias} | {
        name: getattr(small, name)
        for name in ("num_layers", "bidirectional", "batch_first", "nonlinearity")
        if hasattr(small, name)
    }
    empty = empty_layer(twin(8, 12, **options), settings, "here").eval()
    empty.load_state_dict(small.state_dict())
    inputs = torch.randn(size)
    torch.testing.assert_close(empty(inputs), small(inputs), rtol=0, atol=0)


def test_mistakes_are_named():
    for settings, fault in (
        ({"layout": [[2, 4]]}, "layout has 1 groups, expected 2"),
        ({"layuot": []}, "here: unknown key 'layuot'; did you mean 'layout'"),
        ({"layout": [[2, 4], [2, 4]], "dtype": "int4"}, "dtype is 'int4'"),
    ):
        with pytest.raises(UserError, match=fault.replace("[", r"\[")):
            empty_layer(nn.LSTM(4, 4), settings, "here")
    with pytest.raises(UserError, match="proj_size 2"):
        empty_layer(nn.LSTM(4, 4, proj_size=2), {"layout": [[2, 4], [2, 4]]}, "here")


def test_a_drawn_support_serves_every_column_alike():
    layer = empty_layer(nn.GRU(10, 16), {"layout": [[8, 100], [8, None]], "block": 2}, "here")
    seeds = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        scatter_support(layer)
        seeds.append(layer.groups[0].index.clone())
    assert torch.equal(seeds[0], seeds[2]) and not torch.equal(seeds[0], seeds[1])
    index = seeds[0].long()
    assert len(index.unique()) == 100 and bool((index.diff() > 0).all()) and int(index.max()) < 8 * 24
    counts = torch.bincount(index % 24, minlength=24)
    assert int(counts.max()) - int(counts.min()) == 1  # 100 blocks in 24 columns: 4 or 5
    rows = torch.bincount(index // 24, minlength=8)
    assert int(rows.min()) > 0
