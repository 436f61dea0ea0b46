"""Calibration against step-by-step loops; batches and padding do not matter; the model stays as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence

from dirnet.compression.calibration import calibrate
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.grouping import GATES, groups_of

KINDS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}
STACKS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def acoustic_model(rnn_type="lstm", bidirectional=False):
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type=rnn_type, hidden_size=6, num_layers=2, feature_size=3, context=1, num_outputs=4, phones=tuple("-abc"),
        bidirectional=bidirectional, frame_stride=2,
    )  # fmt: skip
    return AcousticModel(config)


def utterances(lengths=(9, 5, 12, 7), size=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, size, generator=generator) for length in lengths]


def batch(matrices):
    return pad_sequence(matrices, batch_first=True, padding_value=9.0), torch.tensor([len(m) for m in matrices])


def stepped(rnn, sequence):
    """What each group of `rnn` reads for one `sequence` (T, F), from torch's one-step cells."""
    directions = ("", "_reverse") if rnn.bidirectional else ("",)
    kind = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell}.get(rnn.mode, nn.RNNCell)
    read = {"input": list(sequence)}
    below = list(sequence)
    for layer in range(rnn.num_layers):
        outputs = []
        for direction in directions:
            cell = kind(len(below[0]), rnn.hidden_size)
            for name, value in cell.named_parameters():
                value.data = getattr(rnn, f"{name}_l{layer}{direction}").data
            state, hidden = None, []
            for vector in reversed(below) if direction else below:
                state = cell(vector[None], state)
                hidden.append((state[0] if rnn.mode == "LSTM" else state)[0])
            outputs.append(hidden[::-1] if direction else hidden)
            read[f"hidden_l{layer}{direction}"] = outputs[-1]
        below = [torch.cat(parts) for parts in zip(*outputs, strict=True)]
    return {name: torch.stack(vectors).detach().double() for name, vectors in read.items()}


def expected(rnn, sequences):
    """(moment, mean) by group, from all steps of all sequences."""
    parts = [stepped(rnn, sequence) for sequence in sequences]
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: (steps.T @ steps / len(steps), steps.mean(0)) for name, steps in together.items()}


def agree(found, wanted, rnn):
    for group, one in zip(groups_of(rnn), found, strict=True):
        moment, mean = wanted[group.name]
        assert torch.allclose(one.moment, moment, atol=1e-5) and torch.allclose(one.mean, mean, atol=1e-5), group.name


@pytest.mark.parametrize("gradients", [False, True], ids=["moments", "gradients"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
def test_moments_are_those_of_a_loop_over_steps(rnn_type, bidirectional, gradients):
    torch.manual_seed(0)
    rnn = STACKS[rnn_type](3, 6, 2, bidirectional=bidirectional)
    sequences = utterances()
    wanted = expected(rnn, sequences)
    data = [pack_sequence(sequences, enforce_sorted=False)]
    agree(calibrate(rnn, data, gradients=gradients)[""], wanted, rnn)
    alone = [(sequence[:, None],) for sequence in sequences]
    agree(calibrate(rnn, alone, gradients=gradients)[""], wanted, rnn)
    unbatched = [{"input": sequence} for sequence in sequences]
    agree(calibrate(rnn, unbatched, gradients=gradients)[""], wanted, rnn)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_batches_and_padding_of_an_acoustic_model_do_not_count(bidirectional):
    model, matrices = acoustic_model(bidirectional=bidirectional), utterances()
    spliced = [model.splice(model.normalise(matrix[None]))[0].detach() for matrix in matrices]
    wanted = expected(model.rnn, spliced)
    for data in ([batch(matrices)], [batch(matrices[:1]), batch(matrices[1:])], [batch([m]) for m in matrices]):
        found = calibrate(model, data, gradients=False)["rnn"]
        agree(found, wanted, model.rnn)
        assert {one.steps for one in found} == {sum((len(m) + 1) // 2 for m in matrices)}


def test_gains_are_the_fisher_information_of_the_gates():
    """Exact: for each step and phone the gradient of log y by the gate values, weighted by y."""
    model, matrix = acoustic_model(), utterances([5])[0]
    features, lengths = batch([matrix])
    spliced = model.splice(model.normalise(features)).detach()
    steps, (rnn, size) = spliced.shape[1], (model.rnn, 6)
    pushed = [torch.zeros(steps, 4 * size, requires_grad=True) for _ in range(2)]
    below = list(spliced[0])
    for layer, push in enumerate(pushed):
        hidden, cell, above = torch.zeros(size), torch.zeros(size), []
        weights = [getattr(rnn, f"{name}_l{layer}").detach() for name in ("weight_ih", "weight_hh")]
        bias = (getattr(rnn, f"bias_ih_l{layer}") + getattr(rnn, f"bias_hh_l{layer}")).detach()
        for step in range(steps):
            gates = weights[0] @ below[step] + weights[1] @ hidden + bias + push[step]
            into, forget, new, out = gates.chunk(4)
            cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            above.append(hidden)
        below = above
    log_posteriors = model.output(torch.stack(below)).log_softmax(1)
    fisher = [torch.zeros(4 * size) for _ in pushed]
    for step in range(steps):
        for phone in range(4):
            slopes = torch.autograd.grad(log_posteriors[step, phone], pushed, retain_graph=True)
            for total, slope in zip(fisher, slopes, strict=True):
                total += log_posteriors[step, phone].detach().exp() * slope.square().sum(0) / steps
    found = calibrate(model, [(features.repeat(4000, 1, 1), lengths.repeat(4000))])["rnn"]
    for group, wanted in zip(found, ([fisher[0]], [fisher[0], fisher[1]], [fisher[1]]), strict=True):
        wanted = torch.cat(wanted).double()
        assert torch.nn.functional.cosine_similarity(group.fisher, wanted, dim=0) > 0.995
        assert float(group.fisher.sum()) == pytest.approx(float(wanted.sum()), rel=0.1)


def test_the_model_and_its_training_state_stay():
    model = acoustic_model().train()
    model.output.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    seen = list(calibrate(model, [batch(utterances())])["rnn"])
    assert model.training and "forward" not in vars(model.rnn)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["output.bias"]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = calibrate(model, [batch(utterances())])["rnn"]
    assert all(torch.equal(one.fisher, other.fisher) for one, other in zip(seen, again, strict=True))
    assert [len(one.fisher) for one in seen] == [GATES["LSTM"] * 6 * columns for columns in (1, 2, 1)]


def test_the_replayed_stack_gives_what_the_stack_gives():
    torch.manual_seed(0)
    seen = []

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 6, 2, bidirectional=True, batch_first=True)

        def forward(self, inputs, states):
            seen.append(self.rnn(inputs, states))
            return seen[-1]

    owner, inputs, states = Owner(), torch.randn(2, 5, 3), torch.randn(4, 2, 6)
    calibrate(owner, [(inputs, states)])
    for found, wanted in zip(seen[0], owner.rnn(inputs, states), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_cell_is_calibrated_as_the_layer_it_is(kind):
    """Step by step, by a loss: the gates' gradients are those of the layer that runs over the whole sequence."""

    class Loss(nn.Module):
        def __init__(self, owner):
            super().__init__()
            self.owner = owner

        def forward(self, inputs):
            if isinstance(self.owner, nn.RNNBase):
                outputs = self.owner(inputs)[0]
            else:
                state, outputs = None, []
                for step in inputs:
                    state = self.owner(step, state)
                    outputs.append(state[0] if isinstance(state, tuple) else state)
                outputs = torch.stack(outputs)
            return outputs.pow(3).mean(), {"loss": 0.0}

    torch.manual_seed(0)
    cell, layer = KINDS[kind](5, 6), STACKS[kind](5, 6)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    data = [torch.randn(7, 2, 5), torch.randn(4, 3, 5)]
    (found,), (wanted,) = (calibrate(Loss(owner), data).values() for owner in (cell, layer))
    assert cell.forward.__func__ is KINDS[kind].forward
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close((one.moment, one.mean, one.fisher), (other.moment, other.mean, other.fisher))
        assert one.steps == other.steps == 26 and float(one.fisher.sum()) > 0


def test_a_loss_is_its_own_likelihood():
    """The gains of a loss do not depend on the seed, and grow with its square."""

    class Scaled(nn.Module):
        def __init__(self, rnn, scale):
            super().__init__()
            self.rnn, self.scale = rnn, scale

        def forward(self, inputs):
            return self.scale * self.rnn(inputs)[0].square().sum()[None]

    rnn, data = nn.GRU(3, 4), [torch.randn(5, 2, 3)]
    once, again, twice = (calibrate(Scaled(rnn, scale), data, seed=seed)["rnn"][0].fisher
                          for scale, seed in ((1, 0), (1, 1), (2, 0)))  # fmt: skip
    assert torch.equal(once, again)
    torch.testing.assert_close(twice, 4 * once)


def test_no_data_and_broken_data_are_named():
    model = acoustic_model()
    with pytest.raises(UserError, match="calibration data is empty"):
        calibrate(model, [])
    features, lengths = batch(utterances())
    with pytest.raises(UserError, match="NaN or infinity"):
        calibrate(model, [(features * float("nan"), lengths)], gradients=False)


def test_every_module_is_in_its_own_mode_afterwards():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.rnn = nn.BatchNorm1d(3), nn.GRU(3, 4)

        def forward(self, inputs):
            return self.rnn(self.norm(inputs.flatten(0, 1)).view_as(inputs))[0]

    model = Frozen().train()
    model.norm.eval()
    calibrate(model, [torch.randn(5, 2, 3)])
    assert model.training and model.rnn.training and not model.norm.training


def test_an_output_without_gradient_is_named():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, inputs):
            return self.rnn(inputs)[0].argmax(-1).float()

    with pytest.raises(UserError, match="has no gradient"):
        calibrate(Counted(), [torch.randn(5, 2, 3)])


def test_an_rnn_that_the_data_does_not_reach_is_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.LSTM(4, 4), nn.LSTM(4, 4)

        def forward(self, inputs):
            return self.used(inputs)[0]

    with pytest.raises(UserError, match="does not reach spare"):
        calibrate(Half(), [torch.randn(5, 2, 4)])
