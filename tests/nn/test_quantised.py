"""int8 values: rounding against plain arithmetic, gradients that pass through, and storage that loses no bit."""

import copy

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.methods import Method
from dirnet.errors import UserError
from dirnet.factorization import Factors
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.quantised import dequantise, quantise
from dirnet.nn.recurrent import DirNetGRU, DirNetLSTM
from dirnet.nn.rounding import rounded
from dirnet.nn.tensors import take_tensors, to_tensors

KINDS = [(5, 20, 1), (5, 7, 4), (300, 41, 2), (3, None, 1), (None, 30, 1), (None, 9, 8), (None, None, 1), (2, 0, 2)]


def coded(atoms, blocks, block, seed=0, dtype="int8"):
    torch.manual_seed(seed)
    matrix = CodedMatrix(12, 32, atoms, blocks, block, dtype)
    if blocks:
        grid = matrix.code_rows * 32 // block
        matrix.index.copy_(torch.randperm(grid)[:blocks].sort().values)
    return matrix


def reference(values):
    """Rows of plain Python numbers rounded to 127 steps of the largest, the step cut to eight significant bits."""
    rows = []
    for row in values.double().tolist():
        step = torch.tensor(max(map(abs, row)) / 127).bfloat16().double().item() or 1.0
        rows.append([step * round(value / step) for value in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_as_by_hand(dtype):
    torch.manual_seed(0)
    values = (torch.randn(6, 50, dtype=dtype) * 10.0 ** torch.arange(-6, 6, 2)[:, None]).to(dtype)
    values[2] = 0
    torch.testing.assert_close(rounded(values, 1).double(), reference(values), rtol=0, atol=0)
    assert torch.equal(rounded(values.t(), 0), rounded(values, 1).t())
    half_step = values.abs().amax(1, keepdim=True) / 126.5 / 2
    assert ((rounded(values, 1) - values).abs() <= half_step).all()


def test_rounding_twice_is_rounding_once_at_every_magnitude():
    torch.manual_seed(0)
    values = torch.randn(4000, 30) * 10.0 ** torch.linspace(-44, 36, 4000, dtype=torch.float64)[:, None]
    values = values.float()
    integers, scales = quantise(values, 1)
    once = dequantise(integers, scales, 1)
    assert torch.equal(once, rounded(values, 1))
    again, same = quantise(once, 1)
    assert torch.equal(integers, again) and torch.equal(scales, same)
    normal = values.abs().amax(1) > 1e-35
    assert (integers[normal].abs().amax(1) == 127).all() and integers.min() >= -127


def test_nan_is_not_hidden():
    values = torch.ones(2, 3)
    values[1, 1] = float("nan")
    assert quantise(values, 1)[1].isnan().tolist() == [False, True] and rounded(values, 1)[1].isnan().any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_are_those_of_the_rounded_product_straight_through(kind):
    matrix = coded(*kind).double()
    pull = torch.randn(12, 32, dtype=torch.float64)
    (matrix.matrix() * pull).sum().backward()
    codes, dictionary = matrix.code_matrix().detach(), matrix.dictionary_values()
    grad = pull if dictionary is None else dictionary.detach().t() @ pull
    if matrix.index is not None:
        grad = grad.reshape(-1, matrix.block)[matrix.index.long()]
    torch.testing.assert_close(matrix.codes.grad, grad)
    if dictionary is not None:
        torch.testing.assert_close(matrix.dictionary.grad, pull @ codes.t())
    assert not torch.equal(codes, matrix.latent_codes().detach()) or not matrix.codes.numel()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_storage_gives_back_every_bit_and_costs_what_it_says(kind):
    matrix, other = coded(*kind), coded(*kind, seed=1)
    packed = to_tensors(matrix)
    values = {name: tensor.dtype for name, tensor in packed.items() if name in ("codes", "dictionary")}
    assert set(values.values()) == {torch.int8}
    assert matrix.stored_bytes() == sum(t.numel() * t.element_size() for t in packed.values())
    atoms = kind[0] or 0
    rows = coded(*kind, dtype="float32").stored_bytes() - 4 * matrix.params()
    indices = min(rows, -(-(atoms or 12) * 32 // 8)) if kind[1:] in ((20, 1), (30, 1)) else rows  # bits
    assert matrix.stored_bytes() == matrix.params() + indices + 2 * (atoms + (atoms or 12))
    take_tensors(other, packed)
    assert torch.equal(other.matrix(), matrix.matrix())
    assert torch.equal(other.code_values(), matrix.code_values()) and torch.equal(other.codes, matrix.code_values())
    again = to_tensors(other)
    assert again.keys() == packed.keys() and all(torch.equal(again[name], packed[name]) for name in packed)
    assert torch.equal(copy.deepcopy(other).matrix(), matrix.matrix())


def test_what_int8_cannot_be_is_refused():
    matrix = coded(5, 20, 1)
    for name, change in [
        ("codes", lambda t: t["codes"].fill_(100)),
        ("dictionary", lambda t: t["dictionary"].fill_(-128)),
        ("code_scales", lambda t: t["code_scales"].fill_(float("nan"))),
    ]:
        packed = {key: value.clone() for key, value in to_tensors(matrix).items()}
        change(packed)
        with pytest.raises(UserError, match="is not what rounding to int8 gives") as caught:
            take_tensors(coded(5, 20, 1), packed)
        assert name.split("_")[0][:4] in str(caught.value)
    with pytest.raises(UserError, match="tensor code_scales is missing"):
        take_tensors(matrix, {key: value for key, value in to_tensors(matrix).items() if key != "code_scales"})
    with pytest.raises(UserError, match="dtype is 'int4', expected float32 or int8"):
        CodedMatrix(3, 4, dtype="int4")


@pytest.mark.parametrize("block, density", [(1, 0.2), (8, 0.2), (1, 1.0)])
@pytest.mark.parametrize("with_dictionary", [True, False])
def test_little_is_lost_on_matrices_like_trained_ones(block, density, with_dictionary):
    """Spectra that decay, tails heavier than Gaussian: trained LSTMs lose 0.5-1.2 % of the norm, these up to 1.5 %."""
    torch.manual_seed(0)
    gains = torch.arange(1.0, 65)[:, None] ** -0.7
    kept = torch.rand(64, 512 // block).lt(density).repeat_interleave(block, dim=1)
    codes = gains * torch.distributions.StudentT(6.0).sample((64, 512)) * kept
    dictionary = nn.functional.normalize(torch.randn(200, 64), dim=0) if with_dictionary else None
    exact = CodedMatrix.from_factors(Factors(dictionary, codes), block).matrix().detach()
    small = CodedMatrix.from_factors(Factors(dictionary, codes), block, "int8").matrix().detach()
    assert 1e-3 < float((small - exact).norm() / exact.norm()) < 0.015


@pytest.mark.parametrize("layer_class", [DirNetLSTM, DirNetGRU])
def test_training_is_aware_of_the_rounding_and_keeps_the_support(layer_class):
    torch.manual_seed(0)
    layer = layer_class(7, 8, 2, layout=[[4, 20], [None, 30], [5, None]], block=4, dtype="int8")
    assert "dtype=int8" in repr(layer) and all(group.dtype == "int8" for group in layer.groups)
    x, supports = torch.randn(9, 3, 7), [copy.deepcopy(group.index) for group in layer.groups]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = layer(x)[0].sub(0.3).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for group, support in zip(layer.groups, supports, strict=True):
        assert group.index is None or torch.equal(group.index, support)
        outside = torch.ones(group.code_rows * group.columns // group.block, dtype=torch.bool)
        if group.index is not None:
            outside[group.index.long()] = False
            assert not group.code_matrix().view(-1, group.block)[outside].any()
    stored = layer_class(7, 8, 2, layout=layer.layout, block=4, dtype="int8")
    stored.load_state_dict(layer.state_dict())
    for mine, theirs in zip(stored.groups, layer.groups, strict=True):
        take_tensors(mine, to_tensors(theirs))
    assert torch.equal(stored.groups[0].codes, layer.groups[0].code_values())
    assert not torch.equal(stored.groups[0].codes, layer.groups[0].codes)
    assert torch.equal(stored(x)[0], layer(x)[0])
    torch.testing.assert_close(layer.to_dense()(x)[0], layer(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_int8_codes_in_half_precision_are_refused_before_anything_is_solved_or_written(dtype, tmp_path):
    """Its 8 or 11 bits do not hold `q * s`: the file would be refused when it is read."""
    method = Method("dirnet", dtype="int8")
    with pytest.raises(UserError, match=f"int8 codes of a model in {dtype}: expected float32.*call model.float"):
        dirnet.compress(nn.LSTM(8, 32, 2).to(dtype), "3x", method, progress=False)
    model, _ = dirnet.compress(nn.LSTM(8, 32, 2), "3x", method, progress=False)
    with pytest.raises(UserError, match=f"int8 codes of a model in {dtype}"):
        dirnet.save(model.to(dtype), tmp_path / "model")
    assert not (tmp_path / "model").exists()
