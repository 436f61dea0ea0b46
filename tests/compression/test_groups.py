"""Finding the layers in somebody else's model, and putting the new ones in their place."""

import pytest
import torch
from torch import nn

from dirnet.compression.compressor import compress
from dirnet.compression.groups import dense_rnns, matrix_groups, replace
from dirnet.errors import UserError
from dirnet.nn.coded import CodedMatrix


class Owner(nn.Module):
    """Uses one layer twice, as models with shared encoders do."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(4, 3, 2)
        self.blocks = nn.ModuleList([nn.GRU(3, 3), nn.Linear(3, 2)])
        self.again = self.first


def test_groups_share_what_reads_one_vector():
    lstm = nn.LSTM(4, 3, 2)
    groups = matrix_groups(lstm, "enc.")
    assert [(group.name, group.shape) for group in groups] == [
        ("enc.input", (4, 12)),
        ("enc.hidden_l0", (3, 24)),
        ("enc.hidden_l1", (3, 12)),
    ]
    assert torch.equal(groups[1].matrix, torch.cat([lstm.weight_hh_l0.t(), lstm.weight_ih_l1.t()], dim=1))


def test_all_layers_are_found_and_replaced_everywhere():
    model = Owner()
    rnns = dense_rnns(model)
    assert list(rnns) == ["first", "blocks.0"]
    new = {rnn: nn.Identity() for rnn in rnns.values()}
    assert replace(model, new) is model
    assert model.first is model.again is new[rnns["first"]] and model.blocks[0] is new[rnns["blocks.0"]]
    lstm = nn.LSTM(4, 3)
    assert replace(lstm, {lstm: model}) is model


def test_shared_layers_are_compressed_and_counted_once():
    model, report = compress(Owner(), "1.5x", "prune", progress=False)
    assert model.first is model.again
    coded = [matrix for matrix in model.modules() if isinstance(matrix, CodedMatrix)]
    biases = 4 * (2 * 2 * 12 + 2 * 9)  # two LSTM layers, one GRU layer
    assert report["compressed"]["bytes"] == sum(matrix.stored_bytes() for matrix in coded) + biases + 4 * 8


def test_nothing_to_compress_and_projections_are_refused():
    with pytest.raises(UserError, match="Linear has no nn.LSTM"):
        dense_rnns(nn.Linear(3, 2))
    with pytest.raises(UserError, match="proj_size 2"):
        dense_rnns(nn.LSTM(4, 3, proj_size=2))
