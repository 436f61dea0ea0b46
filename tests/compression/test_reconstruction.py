"""Reconstruction against single torch layers that read the same, what it improves, and what it leaves alone."""

import copy
from collections import UserDict

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence

import dirnet
from dirnet.compression.finetune import RestingSupport
from dirnet.compression.inputs import run
from dirnet.compression.reconstruction import reconstruct
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


def compressed(dense, size="3x", method="svd", **options):
    return dirnet.compress(copy.deepcopy(dense), size, method, progress=False, **options)


def acoustic(layers=2, units=16):
    torch.manual_seed(0)
    config = AcousticModelConfig(
        "lstm", units, layers, num_outputs=3, phones=("<blank>", "A", "B"), feature_size=5, context=1, frame_stride=3
    )
    model = AcousticModel(config)
    with torch.no_grad():
        for parameter in model.rnn.parameters():
            parameter.mul_(3)
    return model.eval()


def speech(count, seed=0):
    """Batches of features and lengths, the padding not zero."""
    generator, batches = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        lengths = torch.randint(20, 40, (4,), generator=generator)
        batches.append((torch.randn(4, 40, 5, generator=generator), lengths))
    return batches


def by_hand(layer, dense, sequences, states=None):
    """Layer by layer, sequence by sequence: the squared differences over those from the mean."""
    ours, found, size, both = layer.to_dense(), [], dense.hidden_size, 2 if dense.bidirectional else 1
    for number in range(dense.num_layers):
        pairs = []
        for rnn in (ours, dense):
            one = type(dense)(
                sequences[0].shape[1], size, bidirectional=dense.bidirectional, batch_first=True,
                **({"nonlinearity": dense.nonlinearity} if "RNN" in dense.mode else {}),
            )  # fmt: skip
            weights = {name: getattr(rnn, name.replace("l0", f"l{number}")) for name in one.state_dict()}
            one.load_state_dict(weights)
            rows = slice(number * both, (number + 1) * both)
            begin = [
                None if states is None else tuple(state[rows, at] for state in states) for at in range(len(sequences))
            ]
            if states is not None and dense.mode != "LSTM":
                begin = [one_state[0] for one_state in begin]
            with torch.no_grad():
                pairs.append([one(sequence, start)[0] for sequence, start in zip(sequences, begin, strict=True)])
        written, wanted = (torch.cat(outputs) for outputs in pairs)
        found.append(float(((written - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()))
        sequences = pairs[1]
    return sum(found) / len(found)


class Owner(nn.Module):
    """Whatever is given goes to the recurrent layer."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, *inputs):
        return self.rnn(*inputs)[0]


@pytest.mark.parametrize("layout", ["first", "second", "packed", "states", "packed states", "lone", "lone states"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, "relu"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_share_missed_is_that_of_single_torch_layers(kind, bidirectional, layout):
    torch.manual_seed(1)
    options = {"nonlinearity": "relu"} if kind == "relu" else {}
    kind = nn.RNN if kind == "relu" else kind
    dense = Owner(kind(6, 8, 2, bidirectional=bidirectional, batch_first="second" not in layout, **options))
    model, _ = compressed(dense, "1.5x")
    lengths = [5, 9, 7] if "packed" in layout else [9] if "lone" in layout else [9, 9, 9]
    sequences = [torch.randn(length, 6) for length in lengths]
    given = pack_sequence(sequences, enforce_sorted=False) if "packed" in layout else pad_sequence(sequences, True)
    if layout == "second":
        given = given.transpose(0, 1)
    if "lone" in layout:
        given = given[0]
    inputs, states = (given,), None
    if "states" in layout:
        states = tuple(torch.randn(4 if bidirectional else 2, len(lengths), 8) for _ in range(1 + (kind is nn.LSTM)))
        handed = tuple(state[:, 0] for state in states) if "lone" in layout else states
        inputs = (given, handed if kind is nn.LSTM else handed[0])
    run(dense, inputs)  # torch takes them, too
    expected = by_hand(model.rnn, dense.rnn, sequences, states)
    found = reconstruct(model, dense, [inputs])
    assert found == [pytest.approx(expected, rel=1e-4)] and 0.001 < expected < 1
    assert isinstance(given, PackedSequence) == ("packed" in layout)


def test_padding_of_an_acoustic_model_does_not_count():
    dense, (features, lengths) = acoustic(), speech(1)[0]
    model, _ = compressed(dense)
    expected = reconstruct(copy.deepcopy(model), dense, [(features, lengths)])
    features[torch.arange(40) >= lengths[:, None]] = 100.0
    assert reconstruct(model, dense, [(features, lengths)]) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["dirnet", "dirnet_b8", "svd", "odl", "dirnet_int8"])
def test_unseen_speech_is_nearer_to_the_dense_model(method):
    dense, unseen = acoustic(), speech(4, seed=9)
    calibration = speech(4, seed=5) if "dirnet" in method else None
    model, report = compressed(dense, "4x" if "int8" not in method else "2kB", method, data=calibration)
    resting, before = RestingSupport(model), copy.deepcopy(model)

    def divergence(model):
        total = 0.0
        for features, lengths in unseen:
            (wanted, steps), (found, _) = dense(features, lengths), model(features, lengths)
            valid = torch.arange(wanted.shape[1]) < steps[:, None]
            total += float((wanted.exp() * (wanted - found)).sum(-1)[valid].sum())
        return total

    with torch.no_grad():
        first = divergence(model)
    missed = reconstruct(model, dense, speech(100), report["unit_orders"], rate=5e-3)
    resting.step()
    assert sum(missed[-6:]) < 0.9 * sum(missed[:6])
    with torch.no_grad():
        assert divergence(model.eval()) < 0.95 * first
    assert torch.equal(model.output.weight, before.output.weight)


def test_inputs_of_a_step_count_as_one():
    dense = Owner(nn.LSTM(6, 8, 2, batch_first=True))
    model, _ = compressed(dense, "1.5x")
    sequences = [torch.randn(length, 6) for length in (5, 9, 1, 7)]
    expected = by_hand(model.rnn, dense.rnn, sequences[:3])
    found = reconstruct(model, dense, iter([one[None] for one in sequences]), together=3)
    assert len(found) == 2 and found[0] == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_without_variance_changes_nothing():
    """A single output has none; as a divisor it would be zero."""
    dense, usual = Owner(nn.LSTM(6, 8)), [(torch.randn(9, 3, 6),) for _ in range(3)]
    model, _ = compressed(dense, "1.5x")
    alone = (torch.randn(1, 1, 6),)
    found = reconstruct(copy.deepcopy(model), dense, [alone, *usual])
    assert len(found) == 3 and max(found) < 1
    with pytest.raises(UserError, match="no layer's output varies"):
        reconstruct(model, dense, [alone])


class Stepped(nn.Module):
    """Runs its layer one step a call, and not at all if told."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 8)

    def forward(self, values, runs=True):
        states = None
        for value in values if runs else ():
            _, states = self.rnn(value[None], states)


def test_calls_of_one_step_each_count_as_one_sequence():
    torch.manual_seed(0)
    dense = Stepped()
    model, _ = compressed(dense, "1.5x")
    values = torch.randn(9, 1, 6)
    alike = reconstruct(Owner(copy.deepcopy(model.rnn)), Owner(dense.rnn), [(values,)])
    found = reconstruct(model, dense, [(values, False), (values, True), (values, False)])
    assert len(found) == 1 and 0 < found[0] < 1  # the states before a step are the dense layer's
    assert found[0] == pytest.approx(alike[0], rel=0.5)
    with pytest.raises(UserError, match="never reaches rnn; give inputs"):
        reconstruct(model, dense, [(values, False)])


def test_blocks_need_the_order_of_their_units():
    dense = acoustic()
    model, report = compressed(dense, "1.5x", "dirnet_b8", data=speech(4))
    with_orders = reconstruct(copy.deepcopy(model), dense, speech(1), report["unit_orders"])
    kept = copy.deepcopy(dense.state_dict())
    assert with_orders[0] < 0.5 < reconstruct(model, dense, speech(1))[0]
    assert all(torch.equal(value, kept[name]) for name, value in dense.state_dict().items())


def test_blocks_of_any_model_need_the_order_of_their_units():
    torch.manual_seed(0)
    dense = Owner(nn.LSTM(8, 16, 2))
    model, report = compressed(dense, "1.2x", "dirnet_b8", data=[(torch.randn(9, 3, 8),)], states_inside=True)
    data = [(torch.randn(9, 3, 8),)]
    assert report["unit_orders"] and reconstruct(copy.deepcopy(model), dense, data, report["unit_orders"])[0] < 0.3
    assert reconstruct(model, dense, data)[0] > 0.5


def test_what_is_frozen_stays():
    dense = Owner(nn.LSTM(6, 8))
    dense.rnn.weight_ih_l0.requires_grad_(False)
    model, _ = compressed(dense, "1.5x")
    before = {name: value.clone() for name, value in model.named_parameters()}
    reconstruct(model, dense, [(torch.randn(9, 3, 6),)])
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith("rnn.groups.0") for name in changed)
    assert all(parameter.grad is None for parameter in dense.parameters())


def test_a_frozen_stack_beside_another_stays():
    dense = nn.Sequential(Owner(nn.LSTM(6, 8)), Owner(nn.GRU(8, 8)))
    dense[0].requires_grad_(False)
    model, _ = compressed(dense, "1.5x")
    before, data = {name: value.clone() for name, value in model.named_parameters()}, [torch.randn(9, 3, 6)]
    reconstruct(model, dense, data)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("1.") for name in changed)
    with pytest.raises(UserError, match="that may learn"):
        reconstruct(model.requires_grad_(False), dense, data)


def test_mistakes():
    dense = Owner(nn.LSTM(6, 8))
    model, _ = compressed(dense, "1.5x")
    data = [(torch.randn(9, 3, 6),)]
    with pytest.raises(UserError, match="has 0 inputs, 1 a step"):
        reconstruct(model, dense, [])
    with pytest.raises(UserError, match="data is one Tensor, expected an iterable"):
        reconstruct(model, dense, data[0][0])
    with pytest.raises(UserError, match="that may learn; compress it"):
        reconstruct(copy.deepcopy(dense), dense, data)
    with pytest.raises(UserError, match="rnn is no dense LSTM in the dense model"):
        reconstruct(model, model, data)
    with pytest.raises(UserError, match="rnn has hidden_size 8, the dense model 9"):
        reconstruct(model, Owner(nn.LSTM(6, 9)), data)
    with pytest.raises(UserError, match="rnn is torch.bfloat16.*reconstruct in float32"):
        reconstruct(copy.deepcopy(model).bfloat16(), copy.deepcopy(dense).bfloat16(), data)
    with pytest.raises(UserError, match="rnn is torch.float64 on cpu, in the dense model torch.float32 on cpu"):
        reconstruct(copy.deepcopy(model).double(), dense, data)
    with pytest.raises(UserError, match="unit_orders tells of encoder, which the model has not"):
        reconstruct(model, dense, data, {"encoder": [[0]]})
    with pytest.raises(UserError, match="NaN or infinity in step 0"):
        reconstruct(model, dense, [(torch.full((9, 3, 6), torch.inf),)])


def test_inputs_of_a_data_set_without_a_length():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(speech(2))

    dense = acoustic()
    model, _ = compressed(dense)
    expected = reconstruct(copy.deepcopy(model), dense, speech(2))
    with torch.no_grad():  # as around an evaluation
        assert reconstruct(model, dense, torch.utils.data.DataLoader(Endless(), batch_size=None)) == expected


def test_inputs_as_any_mapping():
    dense, data = acoustic(), speech(2)
    model, _ = compressed(dense)
    expected = reconstruct(copy.deepcopy(model), dense, data)
    named = [UserDict(features=features, lengths=lengths) for features, lengths in data]
    assert reconstruct(model, dense, named) == expected


def test_under_autocast_layers_learn_as_much():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch's own LSTM has no bfloat16 on a processor without AVX-512")
    dense, data = acoustic(), speech(60)
    model, report = compressed(dense, "2x", "dirnet")
    other, orders = copy.deepcopy(model), report["unit_orders"]
    whole = reconstruct(model, dense, data, orders, rate=1e-2, progress=False)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = reconstruct(other, dense, data, orders, rate=1e-2, progress=False)
    assert all(value.dtype == torch.float32 for value in other.parameters())
    assert sum(whole[-10:]) < 0.8 * sum(whole[:10]) and rounded != whole
    assert sum(rounded[-10:]) == pytest.approx(sum(whole[-10:]), rel=0.03)
    # and so they give the same, in float32: torch keeps weights that it has cast until the autocast ends
    left = [reconstruct(one, dense, data[:1], orders, rate=0.0)[0] for one in (model, other)]
    assert left[1] == pytest.approx(left[0], rel=0.03)
