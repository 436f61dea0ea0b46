"""The compressed layers against torch's: outputs, gradients, states, and everything an owner does to a layer."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from dirnet.errors import UserError
from dirnet.factorization import Factors
from dirnet.nn.grouping import gather, groups_of, scatter
from dirnet.nn.recurrent import DirNetGRU, DirNetLSTM, DirNetRNN, coded_class

KINDS = [(nn.LSTM, DirNetLSTM), (nn.GRU, DirNetGRU), (nn.RNN, DirNetRNN)]
INPUT, HIDDEN, LAYERS = 7, 6, 3


def random_factors(dense, density=0.4, block=1):
    found = []
    for group in groups_of(dense):
        atoms = max(group.rows // 2, 1)
        keep = torch.rand(atoms, group.columns // block).lt(density).repeat_interleave(block, dim=1)
        keep[:, 0] = True
        found.append(Factors(torch.randn(group.rows, atoms) / 3, torch.randn(atoms, group.columns) * keep))
    return found


@pytest.fixture(params=[(k, b, f) for k in KINDS for b in (False, True) for f in (False, True)], ids=str)
def twins(request):
    """A compressed layer, and torch's layer holding the products of the same factors, computed independently."""
    (dense_class, _), bidirectional, batch_first = request.param
    torch.manual_seed(0)
    dense = dense_class(INPUT, HIDDEN, LAYERS, bidirectional=bidirectional, batch_first=batch_first)
    found = random_factors(dense)
    products = [one.dictionary @ one.codes for one in found]
    with torch.no_grad():
        for name, weight in scatter(groups_of(dense), products).items():
            getattr(dense, name).copy_(weight)
    return coded_class(dense).from_dense(dense, found), dense


def same(ours, theirs):
    if isinstance(theirs, PackedSequence):
        assert isinstance(ours, PackedSequence)
        ours, theirs = ours.data, theirs.data
    if isinstance(theirs, tuple):
        return all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    return True


def padded(layer, batch=4, frames=9):
    shape = (batch, frames, INPUT) if layer.batch_first else (frames, batch, INPUT)
    return torch.randn(shape)


def states(layer, batch=4):
    state = torch.randn(LAYERS * (2 if layer.bidirectional else 1), batch, HIDDEN)
    return (state, torch.randn_like(state)) if isinstance(layer, nn.LSTM) else state


def test_outputs_equal_torch(twins):
    ours, theirs = twins
    x, hx = padded(ours), states(ours)
    same(ours(x), theirs(x))
    same(ours(x, hx), theirs(x, hx))
    lengths = torch.tensor([9, 2, 7, 5])
    packed = pack_padded_sequence(x, lengths, batch_first=ours.batch_first, enforce_sorted=False)
    same(ours(packed), theirs(packed))
    same(ours(packed, hx), theirs(packed, hx=hx))
    unbatched = torch.randn(9, INPUT)
    same(ours(unbatched), theirs(unbatched))


def test_gradients_equal_torch(twins):
    """dL/dD and dL/dZ follow from torch's dL/dW by the product rule; dL/dx and dL/db are torch's own."""
    ours, theirs = (layer.double() for layer in twins)
    x = padded(ours).double().requires_grad_()
    ours(x)[0].square().sum().backward()
    ours_x, x.grad = x.grad, None
    theirs(x)[0].square().sum().backward()
    same(ours_x, x.grad)
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for group, coded in zip(groups_of(theirs), ours.groups, strict=True):
        grad = gather(grads, group)
        codes = coded.code_matrix().detach()
        same(coded.dictionary.grad, grad @ codes.t())
        dense_codes_grad = (coded.dictionary.detach().t() @ grad).reshape(-1, coded.block)
        same(coded.codes.grad, dense_codes_grad[coded.index.long()])
    for name, parameter in ours.named_parameters():
        if name.startswith("bias"):
            same(parameter.grad, grads[name])


def test_copies_and_round_trips(twins):
    ours, _ = twins
    x = padded(ours)
    want = ours(x)[0]
    same(copy.deepcopy(ours)(x)[0], want)
    same(pickle.loads(pickle.dumps(ours))(x)[0], want)
    same(ours.to_dense()(x)[0], want)
    stream = io.BytesIO()
    torch.save(ours.state_dict(), stream)
    stream.seek(0)
    empty = type(ours)(
        INPUT, HIDDEN, LAYERS, layout=ours.layout, bidirectional=ours.bidirectional, batch_first=ours.batch_first
    )
    assert not torch.allclose(empty(x)[0], want)
    empty.load_state_dict(torch.load(stream, weights_only=True), strict=True)
    same(empty(x)[0], want)
    same(ours.double()(x.double())[0], want.double())
    assert ours.float().groups[0].index.dtype == torch.int32


def test_is_the_layer_its_owner_expects(twins):
    ours, theirs = twins
    assert isinstance(ours, type(theirs))
    ours.flatten_parameters()
    assert [[tuple(w.shape) for w in layer] for layer in ours.all_weights] == [
        [tuple(w.shape) for w in layer] for layer in theirs.all_weights
    ]
    with pytest.raises(RuntimeError, match="input_size"):
        ours(torch.randn(4, 9, INPUT + 1))
    ours.reset_parameters()
    weights = torch.cat([w.flatten() for n, w in ours.dense_weights().items() if n.startswith("weight")])
    assert 0.3 < weights.std() * 3**0.5 * HIDDEN**0.5 < 2  # the scale of torch's own uniform(+-1/sqrt(H))
    assert "DirNet" in repr(ours) and "atoms=3" in repr(ours)


def test_dropout_between_layers_only_in_training():
    dense = nn.LSTM(INPUT, HIDDEN, LAYERS, dropout=0.5)
    ours = DirNetLSTM.from_dense(dense, random_factors(dense))
    x = padded(ours)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])


def test_training_keeps_zeros_and_a_resumed_run_equals_an_unbroken_one(twins):
    ours, _ = twins
    zeros = [coded.code_matrix() == 0 for coded in ours.groups]
    x = padded(ours)

    def train(layer, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            layer(x)[0].sub(0.3).square().mean().backward()
            optimizer.step()

    def adam(layer):
        return torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.1)

    optimizer = adam(ours)
    before = ours(x)[0].sub(0.3).square().mean().item()
    train(ours, optimizer, 3)
    resumed = copy.deepcopy(ours)
    other = adam(resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(ours, optimizer, 3)
    train(resumed, other, 3)
    assert ours(x)[0].sub(0.3).square().mean().item() < before
    same(resumed(x)[0], ours(x)[0])
    for zero, coded in zip(zeros, ours.groups, strict=True):
        assert torch.equal(coded.code_matrix() == 0, zero)


def test_mixed_precision_as_torch(twins):
    ours, theirs = twins
    x = padded(ours)
    with torch.autocast("cpu", torch.bfloat16):
        try:
            reference = theirs(x)[0]
        except RuntimeError as error:
            assert "primitive descriptor" in str(error)
            pytest.skip("torch's own LSTM has no bfloat16 on a processor without AVX-512")
        mine = ours(x)[0]
    assert mine.dtype == reference.dtype
    torch.testing.assert_close(mine, reference, rtol=0.05, atol=0.05)


def test_weights_keep_their_type_under_autocast(twins):
    ours, _ = twins
    with torch.autocast("cpu", torch.bfloat16):
        again, weight = ours.to_dense(), ours.weight_hh_l0
    assert weight.dtype == torch.float32
    x = padded(ours)
    torch.testing.assert_close(again(x)[0], ours(x)[0])


def test_relu_and_no_bias():
    dense = nn.RNN(INPUT, HIDDEN, 2, nonlinearity="relu", bias=False)
    found = [Factors(None, gather(dict(dense.named_parameters()), group)) for group in groups_of(dense)]
    ours = DirNetRNN.from_dense(dense, found)
    assert not [name for name in ours.state_dict() if "bias" in name]
    x = padded(ours)
    same(ours(x), dense(x))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="proj_size 2"):
        DirNetLSTM.from_dense(nn.LSTM(INPUT, HIDDEN, proj_size=2), [])
    with pytest.raises(UserError, match="layout has 1 groups, expected 2: input, hidden_l0"):
        DirNetLSTM(INPUT, HIDDEN, layout=[[3, 4]])
    dense = nn.LSTM(INPUT, HIDDEN)
    with pytest.raises(UserError, match="factors have shapes"):
        DirNetLSTM.from_dense(dense, random_factors(nn.LSTM(INPUT, HIDDEN + 1)))
    with pytest.raises(UserError, match="block 5 does not divide"):
        DirNetLSTM(INPUT, HIDDEN, layout=[[3, 4], [3, 4]], block=5)
    with pytest.raises(UserError, match="does not fit"):
        DirNetLSTM(INPUT, HIDDEN, layout=[[3, 4000], [3, 4]])


def test_an_owner_may_read_weights_that_are_no_parameters():
    """As code does that asks a layer for its device or shape."""
    layer = coded_class(nn.LSTM(1, 1))(12, 24, 2, layout=[[3, 40], [5, None], [None, 60]], bidirectional=False)
    weights = layer.dense_weights()
    assert torch.equal(layer.weight_ih_l0, weights["weight_ih_l0"]) and layer.weight_hh_l1.shape == (96, 24)
    assert not {"weight_ih_l0"} & dict(layer.named_parameters()).keys()
    for name in ("weight_ih_l2", "weight_hr_l0", "weights"):
        assert not hasattr(layer, name)


def test_shapes_can_be_had_on_the_meta_device():
    layer = coded_class(nn.GRU(1, 1))(12, 24, layout=[[3, 40], [5, None]]).to("meta")
    output, state = layer(torch.zeros(7, 2, 12, device="meta"))
    assert output.shape == (7, 2, 24) and state.shape == (1, 2, 24)
