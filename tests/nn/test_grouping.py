"""Which matrices read the same vector: every weight once, and a stack by hand."""

import pytest
from torch import nn

from dirnet.nn.grouping import gather, groups_of, scatter


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_groups_cover_every_weight_once(kind, bidirectional):
    dense = kind(5, 3, 3, bidirectional=bidirectional)
    weights = {name: value for name, value in dense.named_parameters() if name.startswith("weight")}
    groups = groups_of(dense)
    again = scatter(groups, [gather(weights, group) for group in groups])
    assert again.keys() == weights.keys()
    assert all(again[name].equal(weights[name]) for name in weights)
    assert sum(group.rows * group.columns for group in groups) == sum(weight.numel() for weight in weights.values())


def test_groups_of_a_stack_by_hand():
    groups = groups_of(nn.LSTM(5, 3, 2, bidirectional=True))
    assert [(g.name, g.rows, g.columns) for g in groups] == [
        ("input", 5, 24),
        ("hidden_l0", 3, 36),
        ("hidden_l0_reverse", 3, 36),
        ("hidden_l1", 3, 12),
        ("hidden_l1_reverse", 3, 12),
    ]
    assert [(m.weight, m.start, m.stop) for m in groups[2].members] == [
        ("weight_hh_l0_reverse", 0, 3),
        ("weight_ih_l1", 3, 6),
        ("weight_ih_l1_reverse", 3, 6),
    ]
