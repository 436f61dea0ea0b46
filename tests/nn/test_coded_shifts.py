"""Coded matrices and layers whose codes move their atoms, and layers that share a dictionary with their input."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from dirnet.errors import UserError
from dirnet.factorization import Factors
from dirnet.factorization.shift import Shifts
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.grouping import gather, groups_of, scatter
from dirnet.nn.recurrent import DirNetGRU, DirNetLSTM, DirNetRNN, coded_class
from dirnet.nn.tensors import take_tensors, to_tensors

SETS = [Shifts(1), Shifts(2, "zero")]


def random_factors(rows, columns, atoms, shifts, density=0.4, block=1):
    keep = torch.rand(atoms, columns // block).lt(density)
    keep[:, 0] = True  # an atom without a code would be dropped
    keep = keep.repeat_interleave(block, dim=1)
    offsets = torch.randint(-shifts.reach, shifts.reach + 1, (atoms, columns // block)).to(torch.int8)
    offsets = offsets.repeat_interleave(block, dim=1)
    return Factors(torch.randn(rows, atoms), torch.randn(atoms, columns) * keep, offsets * keep, shifts)


def looped(factors):
    """sum_ij z_ij delta_ij(d_i), one code after the other."""
    total = torch.zeros(len(factors.dictionary), factors.codes.shape[1])
    for atom, column in factors.codes.nonzero().tolist():
        moved = factors.shifts.apply(factors.dictionary[:, atom], int(factors.offsets[atom, column]))
        total[:, column] += factors.codes[atom, column] * moved
    return total


@pytest.fixture(params=[(s, b, d) for s in SETS for b in (1, 4) for d in (0.4, 1.1)], ids=str)
def case(request):
    """Factors, and the coded matrix made of them; density 1.1 is a Z without zeros."""
    shifts, block, density = request.param
    torch.manual_seed(0)
    factors = random_factors(9, 12, 5, shifts, density, block)
    coded = CodedMatrix.from_factors(factors, block)
    assert (coded.index is None) == (density > 1)
    return factors, coded


def test_the_matrix_is_the_sum_of_moved_atoms(case):
    factors, coded = case
    torch.testing.assert_close(coded.matrix(), looped(factors))
    torch.testing.assert_close(coded.code_matrix(), factors.codes)


def test_a_shift_too_far_is_not_loaded(case):
    _, coded = case
    state = {name: value.clone() for name, value in coded.state_dict().items()}
    coded.load_state_dict(state)
    state["offsets"][0] = coded.shifts.reach + 1
    with pytest.raises(RuntimeError, match=f"offsets moves an atom by more than {coded.shifts.reach} rows"):
        coded.load_state_dict(state)


def test_gradients_reach_atoms_and_codes(case):
    factors, coded = case
    coded.double()
    weights = torch.randn(9, 12).double()
    (coded.matrix() * weights).sum().backward()
    dictionary = factors.dictionary.double().requires_grad_()
    codes = factors.codes.double().requires_grad_()
    total = 0
    for offset in factors.shifts.offsets:
        total = total + factors.shifts.apply(dictionary, offset) @ (codes * (factors.offsets == offset))
    (total * weights).sum().backward()
    torch.testing.assert_close(coded.dictionary.grad, dictionary.grad)
    blocks = codes.grad.reshape(-1, coded.block)
    kept = torch.arange(len(blocks)) if coded.index is None else coded.index.long()
    torch.testing.assert_close(coded.codes.grad.reshape(-1, coded.block), blocks[kept])


def test_what_is_stored_is_counted_and_comes_back(case):
    _, coded = case
    content = save({name: tensor.contiguous() for name, tensor in to_tensors(coded).items()})
    header = 8 + int.from_bytes(content[:8], "little")
    assert len(content) - header == coded.stored_bytes()
    assert to_tensors(coded)["offsets"].dtype == torch.int8
    assert len(to_tensors(coded)["offsets"]) == coded.codes.numel() // coded.block  # a byte for a block
    empty = CodedMatrix(coded.rows, coded.columns, *coded.layout, coded.block, shifts=coded.shifts)
    take_tensors(empty, load(content))
    assert torch.equal(empty.matrix(), coded.matrix())
    other = CodedMatrix(coded.rows, coded.columns, *coded.layout, coded.block, shifts=coded.shifts)
    other.load_state_dict(coded.state_dict(), strict=True)
    assert torch.equal(other.matrix(), coded.matrix())


def test_damage_is_named(case):
    _, coded = case
    packed = to_tensors(coded)
    far = packed["offsets"].clone()
    far[0] = -128  # whose absolute value an int8 does not hold
    for change, message in [
        ({"offsets": far}, f"offsets moves an atom by more than {coded.shifts.reach} rows"),
        ({"offsets": packed["offsets"][1:]}, "tensor offsets is"),
        ({"offsets": packed["offsets"].short()}, "torch.int16.*expected"),
    ]:
        with pytest.raises(UserError, match=message):
            take_tensors(coded, packed | change)
    with pytest.raises(UserError, match="tensor offsets is missing"):
        take_tensors(coded, {name: tensor for name, tensor in packed.items() if name != "offsets"})


def test_every_used_pair_of_atom_and_shift_costs_a_value_of_u(case):
    factors, coded = case
    pairs = {(atom, int(factors.offsets[atom, column])) for atom, column in factors.codes.nonzero().tolist()}
    assert coded.macs() == 9 * len(pairs) + int(factors.codes.count_nonzero())
    assert coded.params() == 9 * 5 + int(factors.codes.count_nonzero())
    plain = coded.unshifted()
    assert plain.offsets is None and plain.atoms == len(pairs) and plain.macs() == coded.macs()
    torch.testing.assert_close(plain.matrix(), coded.matrix())


def test_a_block_has_one_shift():
    factors = random_factors(9, 12, 5, Shifts(1), 1.1)
    with pytest.raises(UserError, match="a block of 4 codes has several shifts"):
        CodedMatrix.from_factors(factors, 4)
    with pytest.raises(UserError, match="shifts is 2, too far for 4 rows"):
        CodedMatrix(4, 8, 3, 5, 1, shifts=Shifts(2))


@pytest.mark.parametrize("dense_class, ours_class", [(nn.LSTM, DirNetLSTM), (nn.GRU, DirNetGRU), (nn.RNN, DirNetRNN)])
@pytest.mark.parametrize("shifts", SETS, ids=str)
def test_layers_run_copy_and_train_with_shifts(dense_class, ours_class, shifts):
    torch.manual_seed(0)
    dense = dense_class(7, 6, 2)
    factors = [random_factors(group.rows, group.columns, 4, shifts) for group in groups_of(dense)]
    factors[1] = Factors(None, gather(dict(dense.named_parameters()), groups_of(dense)[1]).detach())  # kept dense
    ours = coded_class(dense).from_dense(dense, factors)
    matrices = [f.codes if f.dictionary is None else looped(f) for f in factors]
    with torch.no_grad():
        for name, weight in scatter(groups_of(dense), matrices).items():
            getattr(dense, name).copy_(weight)
    x = torch.randn(5, 3, 7)
    torch.testing.assert_close(ours(x)[0], dense(x)[0])
    torch.testing.assert_close(copy.deepcopy(ours)(x)[0], dense(x)[0])
    empty = ours_class(7, 6, 2, layout=ours.layout, shifts=shifts.reach, shift_kind=shifts.kind)
    empty.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(empty(x)[0], ours(x)[0])
    before = copy.deepcopy(ours.state_dict())
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-2, weight_decay=0.1)
    ours(x)[0].square().mean().backward()
    optimizer.step()
    for name, value in ours.state_dict().items():
        moved = name.endswith(("dictionary", "codes")) or "bias" in name
        assert torch.equal(value, before[name]) != moved, name
    assert f"shifts={shifts.reach} ({shifts.kind})" in repr(ours)
    other = random_factors(6, factors[2].codes.shape[1], 4, SETS[shifts == SETS[0]])
    with pytest.raises(UserError, match="several sets of shifts"):
        ours_class.from_dense(dense, [*factors[:2], other])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dense_class", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_single_layer_shares_its_dictionary_with_its_input(dense_class, bidirectional):
    """Sec. 3.5: W_h^T = D Z_h and W_x^T = D Z_x of one layer, with one D."""
    torch.manual_seed(0)
    dense = dense_class(6, 6, bidirectional=bidirectional)
    groups = groups_of(dense, "shared")
    assert [(m.weight, m.start, m.stop) for m in groups[0].members] == [("weight_hh_l0", 0, 6), ("weight_ih_l0", 0, 6)]
    weights = {name: value for name, value in dense.named_parameters() if name.startswith("weight")}
    again = scatter(groups, [gather(weights, group) for group in groups])
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in weights)
    factors = [random_factors(6, group.columns, 4, Shifts(0)) for group in groups]
    factors = [Factors(f.dictionary, f.codes) for f in factors]
    ours = coded_class(dense).from_dense(dense, factors, input_group="shared")
    for f, suffix in zip(factors, ("", "_reverse"), strict=False):
        gates = f.codes.shape[1] // 2
        recurrent, inputs = f.codes.split(gates, dim=1)
        built = ours.dense_weights()
        torch.testing.assert_close(built[f"weight_hh_l0{suffix}"].T, f.dictionary @ recurrent)
        torch.testing.assert_close(built[f"weight_ih_l0{suffix}"].T, f.dictionary @ inputs)
    # D is stored once, and read by the input and by the hidden state
    coded = ours.groups[0]
    assert coded.params() == 6 * 4 + coded.codes.numel() and coded.macs() == 2 * 6 * 4 + coded.codes.numel()
    x = torch.randn(5, 3, 6)
    torch.testing.assert_close(ours(x)[0], ours.to_dense()(x)[0])
    empty = type(ours)(6, 6, layout=ours.layout, bidirectional=bidirectional, input_group="shared")
    empty.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(empty(x)[0], ours(x)[0]) and empty.groups[0].macs() == coded.macs()


def test_what_cannot_be_shared_is_said():
    for layer, message in [
        (nn.LSTM(6, 6, 2), "single layer, this one has 2"),
        (nn.LSTM(5, 6), "as many inputs as it has units, this one has 5 inputs and 6 units; use own or dense"),
    ]:
        with pytest.raises(UserError, match=message):
            groups_of(layer, "shared")
    with pytest.raises(UserError, match="input_group is 'both', expected one of own, shared"):
        DirNetLSTM(6, 6, layout=[[3, 4]], input_group="both")
