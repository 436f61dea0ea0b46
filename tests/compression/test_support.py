"""Gradual pruning and regrowth: the schedule, the exact budget, zeros that stay zero, resume."""

import copy

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.finetune import refuse_changed_layout
from dirnet.compression.methods import Method
from dirnet.compression.support import (
    MovingSupport,
    SupportSchedule,
    coded_matrices,
    exchanged,
    loosen,
    shrunk,
    tighten,
)
from dirnet.errors import UserError
from dirnet.factorization import blocks

STEPS = 40


def lstm(seed=0):
    torch.manual_seed(seed)
    return nn.LSTM(16, 16, 2)


def pruned(dense, size="6x", block=1, support="gradual", solver="prune"):
    method = Method(solver, block=block, support=support)
    return dirnet.compress(copy.deepcopy(dense), size, method, progress=False)[0]


def train(model, support, steps, optimizer=None, first=0, watch=lambda step: None):
    """Steps of a regression whose targets the dense model could reach; returns the optimizer."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(first, steps):
        inputs = torch.randn(7, 2, 16, generator=torch.Generator().manual_seed(step))
        (model(inputs)[0] - inputs.cumsum(0).tanh()).square().mean().backward()
        optimizer.step()
        support.step((step + 1) / STEPS)
        optimizer.zero_grad()
        watch(step)
    return optimizer


def test_the_number_of_blocks_falls_by_the_cubic_rule():
    torch.manual_seed(0)
    codes, mask = torch.randn(6, 50), torch.ones(6, 50, dtype=torch.bool)
    for progress, number in ((0.0, 300), (0.25, round(30 + 270 * 27 / 64)), (0.5, round(30 + 270 / 8)), (1.0, 30)):
        kept = shrunk(codes, mask, 30, progress)
        assert int(kept.sum()) == number
        assert number == 300 or codes[kept].abs().min() > codes[~kept].abs().max()
    half = torch.arange(300).view(6, 50) % 2 == 0
    assert not (shrunk(codes, half, 30, 0.9) & ~half).any()


def test_an_exchange_drops_the_smallest_and_takes_the_largest_gradients():
    codes = torch.tensor([[5.0, 1.0, 0.0, 3.0, 0.0, 0.0]])
    gradient = torch.tensor([[9.0, 9.0, 0.1, 9.0, 0.3, 0.2]])
    assert exchanged(codes, gradient, codes != 0, 3, 1).tolist() == [[True, False, False, True, True, False]]
    assert exchanged(codes, gradient, codes != 0, 3, 0).tolist() == (codes != 0).tolist()
    assert exchanged(codes, gradient, codes != 0, 4, 0).tolist() == [[True, True, False, True, True, False]]
    in_pairs = exchanged(codes, gradient, blocks.support(codes, 2), 2, 1, block=2)
    assert in_pairs.tolist() == [[True, True, False, False, True, True]]


@pytest.mark.parametrize("block", [1, 4])
def test_gradual_pruning_ends_at_the_very_layout(block):
    dense = lstm()
    model = pruned(dense, block=block)
    before, layout = copy.deepcopy(model.state_dict()), model.layout
    kept = loosen(model, dense)
    inputs = torch.randn(5, 1, 16)
    torch.testing.assert_close(model(inputs)[0], dense(inputs)[0])  # it starts from all the dense weights
    support = MovingSupport(model, SupportSchedule("gradual", kept))
    sizes = []

    def watch(step):
        zeros = [int((matrix.codes == 0).sum()) for matrix in model.groups]
        assert all((matrix.codes[~mask] == 0).all() for matrix, mask in zip(model.groups, support.masks, strict=True))
        sizes.append(sum(zeros))

    train(model, support, STEPS + 5, watch=watch)
    assert sizes == sorted(sizes) and 0 < sizes[0] < sizes[STEPS // 2] < sizes[STEPS - 1] == sizes[-1]
    loose = copy.deepcopy(model).eval()
    tighten(model, kept)
    torch.testing.assert_close(model(inputs)[0], loose(inputs)[0])
    assert model.layout == layout and model.state_dict().keys() == before.keys()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items() if "index" in name)


def test_gradual_pruning_beats_pruning_at_once():
    def loss(model):
        inputs = torch.randn(9, 50, 16, generator=torch.Generator().manual_seed(99))
        with torch.no_grad():
            return float((model(inputs)[0] - inputs.cumsum(0).tanh()).square().mean())

    dense = lstm()
    idle = MovingSupport(pruned(dense), SupportSchedule("gradual", (None,) * 3))
    train(dense, idle, 150)
    model, at_once = pruned(dense, "12x"), pruned(dense, "12x")
    kept = loosen(model, dense)
    train(model, MovingSupport(model, SupportSchedule("gradual", kept)), 80)
    tighten(model, kept)
    train(at_once, idle, 80)
    assert loss(model) < loss(at_once), (loss(dense), loss(model), loss(at_once))


@pytest.mark.parametrize("block", [1, 4])
def test_regrowth_moves_the_support_at_a_constant_size(block):
    model = pruned(lstm(), "4x", block, "regrow", "dirnet")
    inputs = torch.randn(5, 1, 16)
    layout, first, output = model.layout, [index_of(matrix) for matrix in model.groups], model(inputs)[0]
    kept = loosen(model)
    torch.testing.assert_close(model(inputs)[0], output)
    support = MovingSupport(model, SupportSchedule("regrow", kept, regrow=0.5))

    def watch(step):
        for matrix, number in zip(model.groups, kept, strict=True):
            assert blocks.count(matrix.codes, block) == number * block

    train(model, support, STEPS, watch=watch)
    last = [mask.clone() for mask in support.masks]
    train(model, support, STEPS + 9, first=STEPS, watch=watch)
    assert all(torch.equal(one, other) for one, other in zip(last, support.masks, strict=True))
    tighten(model, kept)
    assert model.layout == layout
    moved = [(a != index_of(b)).sum().item() for a, b in zip(first, model.groups, strict=True)]
    assert all(moved), moved


def test_regrowth_does_not_depend_on_how_atoms_and_codes_share_their_scale():
    model = pruned(lstm(), "4x", support="regrow", solver="dirnet")
    kept = loosen(model)
    other, inputs = copy.deepcopy(model), torch.randn(9, 4, 16)
    with torch.no_grad():
        for matrix in coded_matrices(other):
            scales = torch.rand(matrix.atoms) * 4 + 0.2
            matrix.dictionary.mul_(scales)
            matrix.codes.div_(scales[:, None])
    masks = []
    for one in (model, other):
        support = MovingSupport(one, SupportSchedule("regrow", kept, regrow=0.5))
        before = [mask.clone() for mask in support.masks]
        one(inputs)[0].square().sum().backward()
        support.step(0.1)
        masks.append(support.masks)
        assert any(not torch.equal(old, new) for old, new in zip(before, support.masks, strict=True))
    assert all(torch.equal(old, new) for old, new in zip(*masks, strict=True))


def index_of(matrix):
    """The support (p, M) of a coded matrix."""
    return matrix.code_matrix().detach() != 0


@pytest.mark.parametrize("kind, solver", [("gradual", "prune"), ("regrow", "dirnet")])
def test_a_resume_from_the_parameters_alone_is_exact(kind, solver):
    dense = lstm()
    model = pruned(dense, support=kind, solver=solver)
    kept = loosen(model, dense if kind == "gradual" else None)
    schedule = SupportSchedule(kind, kept)
    optimizer = train(model, MovingSupport(model, schedule), STEPS // 2)
    again = copy.deepcopy(model)
    resumed = torch.optim.AdamW(again.parameters(), lr=1e-2, weight_decay=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, state in ((model, optimizer), (again, resumed)):
        support = MovingSupport(one, schedule)
        train(one, support, STEPS, state, first=STEPS // 2)
        support.close()
        tighten(one, kept)
    refuse_changed_layout(model.state_dict(), again.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_pruned_weights_get_no_gradient_and_hooks_go():
    dense = lstm()
    model = pruned(dense)
    support = MovingSupport(model, SupportSchedule("gradual", loosen(model, dense)))
    support.step(0.8)
    model(torch.randn(3, 1, 16))[0].sum().backward()
    for matrix, mask in zip(model.groups, support.masks, strict=True):
        assert not matrix.codes.grad[~mask].any() and matrix.codes.grad[mask].any()
    support.close()
    model(torch.randn(3, 1, 16))[0].sum().backward()
    assert all(matrix.codes.grad[~mask].any() for matrix, mask in zip(model.groups, support.masks, strict=True))


def test_mistakes_are_told():
    dense = lstm()
    with pytest.raises(UserError, match="compress it first"):
        coded_matrices(dense)
    model = pruned(dense)
    with pytest.raises(UserError, match="call loosen"):
        MovingSupport(model, SupportSchedule("gradual", (1, 1, 1)))
    with pytest.raises(UserError, match="kept has 1 groups, the model 3"):
        MovingSupport(model, SupportSchedule("gradual", (1,)))
    kept = loosen(model, dense)
    with pytest.raises(UserError, match="train to the end of the schedule"):
        tighten(model, kept)
    with pytest.raises(UserError, match="epochs 0"):
        SupportSchedule("gradual", kept, epochs=0)
    shifted, _ = dirnet.compress(nn.LSTM(8, 8), "1.5x", Method("dirnet", shifts=1), progress=False)
    with pytest.raises(UserError, match="have shifts, which a moving support cannot keep"):
        loosen(shifted)
    for method, message in ((("dirnet", "gradual"), "solver dirnet is not prune"), (("svd", "regrow"), "no zeros")):
        with pytest.raises(UserError, match=message):
            Method(method[0], support=method[1])


def test_int8_stays_int8_while_the_support_moves():
    """Codes are rounded in the forward pass, kept as they are trained, and stored in as many bytes as before."""
    model, report = dirnet.compress(lstm(), "3x", Method("dirnet", support="regrow", dtype="int8"), progress=False)
    inputs = torch.randn(7, 2, 16)
    before, sizes = model(inputs)[0], [matrix.stored_bytes() for matrix in coded_matrices(model)]
    kept = loosen(model)
    assert {matrix.dtype for matrix in coded_matrices(model)} == {"int8"}
    assert torch.allclose(model(inputs)[0], before, atol=1e-6)
    support = MovingSupport(model, SupportSchedule("regrow", kept))
    train(model, support, STEPS)
    support.close()
    tighten(model, kept)
    assert [matrix.dtype for matrix in coded_matrices(model)] == ["int8"] * len(kept)
    assert [matrix.stored_bytes() for matrix in coded_matrices(model)] == pytest.approx(sizes, rel=0.05)


def test_cells_are_loosened_with_the_layers():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.rnn = nn.LSTMCell(16, 16), nn.LSTM(16, 16)

        def forward(self, inputs):
            return self.rnn(self.cell(inputs[0])[0][None])[0]

    torch.manual_seed(0)
    dense, inputs = Pair(), torch.randn(3, 2, 16)
    model = pruned(dense)
    loosen(model, dense)  # gradual pruning starts from the dense model
    assert torch.allclose(model(inputs), dense(inputs), atol=1e-6)


@pytest.mark.parametrize(
    "settings, fault",
    [
        ({"solver": "prune", "support": "gradual", "weighting": "auto"}, "starts from the dense weights as they are"),
        ({"solver": "prune", "support": "gradual", "block": 4, "permute": True}, "starts from the dense weights"),
        ({"solver": "dirnet", "support": "regrow", "shifts": 1}, "expected fixed with shifts"),
        ({"solver": "dirnet", "input_group": "shared", "block": 4, "permute": True}, "expected false with input_group"),
        ({"solver": "small", "dtype": "int8"}, "solver small makes torch's own layers"),
        ({"solver": "svd", "allocation": "variance", "input_group": "dense"}, "allocation is variance"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, fault):
    with pytest.raises(UserError, match=fault):
        Method(**settings)


@pytest.mark.parametrize("block", [1, 8])
def test_an_exchange_keeps_its_size_where_no_gradient_asks_for_more(block):
    codes = torch.zeros(4, 32)
    codes[0] = torch.arange(1.0, 33.0)
    mask = codes != 0
    found = exchanged(codes, torch.zeros(4, 32), mask, 32 // block, 16 // block, block)
    assert found.sum() == 32 and (found & mask).sum() == 16


def test_what_is_frozen_stays_frozen_in_both_directions():
    torch.manual_seed(0)
    frozen = nn.LSTM(8, 16, 2).requires_grad_(False)
    model, _ = dirnet.compress(frozen, "3x", Method("dirnet", support="regrow"), progress=False)
    kept = loosen(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    tighten(model, kept)
    assert not any(parameter.requires_grad for parameter in model.parameters())
