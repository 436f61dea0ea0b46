"""A coded matrix as stored tensors: read back by loops, and what is not one is refused."""

import copy

import pytest
import torch

from dirnet.errors import UserError
from dirnet.factorization.shift import Shifts
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.indices import to_mask
from dirnet.nn.tensors import take_tensors, to_tensors, values_of


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("atoms,blocks,block", [(5, 7, 2), (300, 90, 1), (600, 190, 1), (600, 90, 4)])
def test_blocks_are_stored_by_runs_column_by_column(atoms, blocks, block, dtype):
    torch.manual_seed(0)
    matrix = CodedMatrix(3, 8, atoms, blocks, block, dtype)
    matrix.index.copy_(torch.randperm(8 // block * atoms)[:blocks].sort().values)
    packed = to_tensors(matrix)
    assert packed["rows"].dtype == torch.uint8 and packed["counts"].shape == (-(-atoms // 256), 8 // block)
    rebuilt = torch.zeros(atoms, 8)
    position = 0
    for run, counts in enumerate(packed["counts"].tolist()):
        for column, count in enumerate(counts):
            rows = packed["rows"][position : position + count].tolist()
            assert rows == sorted(rows)
            for row in (256 * run + row for row in rows):
                scale = packed["code_scales"][row].float() if dtype == "int8" else 1
                rebuilt[row, block * column : block * (column + 1)] = packed["codes"][position].float() * scale
                position += 1
    torch.testing.assert_close(rebuilt, matrix.code_matrix())
    torch.testing.assert_close(matrix.matrix(), matrix.dictionary_values() @ rebuilt)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("atoms,blocks,block", [(5, 7, 2), (5, 20, 1), (300, 290, 1), (600, 90, 4), (70000, 9, 8)])
def test_indices_of_older_versions_are_read(atoms, blocks, block, masked, dtype):
    """Rows of all of Z in the smallest type that names them, counted by column; or bits, from another count on."""
    matrix, again = (CodedMatrix(3, 8, atoms, blocks, block, dtype, Shifts(1)) for _ in range(2))
    matrix.index.copy_(torch.randperm(8 // block * atoms)[:blocks].sort().values)
    matrix.offsets.random_(-1, 2)
    older = {name: value for name, value in to_tensors(matrix).items() if name not in ("rows", "counts", "mask")}
    values, width = values_of(matrix)["codes"], 8 // block
    if masked:
        kept = torch.zeros(atoms * width, dtype=torch.bool)
        kept[matrix.index.long()] = True
        older |= {"mask": to_mask(kept), "codes": values, "offsets": matrix.offsets}
    else:
        order = sorted(range(blocks), key=lambda at: (int(matrix.index[at]) % width, int(matrix.index[at])))
        rows, dtypes = matrix.index.long()[order] // width, (torch.uint8, torch.uint16, torch.uint32)
        older["rows"] = rows.to(dtypes[(atoms > 256) + (atoms > 65536)])
        older["counts"] = (matrix.index.long() % width).bincount(minlength=width).to(torch.uint16)
        older |= {"codes": values[order], "offsets": matrix.offsets[order]}
    take_tensors(again, older)
    assert torch.equal(again.index, matrix.index) and torch.equal(again.offsets, matrix.offsets)
    found, expected = values_of(again), values_of(matrix)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for name in ("mask",) if masked else ("rows", "counts"):
        with pytest.raises(UserError, match=f"tensor {name} is "):
            take_tensors(again, older | {name: older[name][:-1]})


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("rows,columns,codes", [(5, 9, 6), (300, 8, 280), (5, 16, 10)])
def test_single_codes_are_stored_row_by_row_with_a_bit_for_every_place_where_that_is_less(rows, columns, codes, dtype):
    """45 places are 6 bytes of bits, as numbers 9 counts of two bytes; 300 rows have as many counts once more."""
    torch.manual_seed(0)
    matrix = CodedMatrix(3, columns, rows, codes, dtype=dtype)
    matrix.index.copy_(torch.randperm(rows * columns)[:codes].sort().values)
    packed = to_tensors(matrix)
    scales = {"dictionary_scales", "code_scales"} if dtype == "int8" else set()
    assert set(packed) == {"dictionary", "codes", "mask"} | scales
    number = int.from_bytes(bytes(packed["mask"].tolist()), "little")
    kept = [place for place in range(rows * columns) if number >> place & 1]
    assert kept == matrix.index.tolist() and number >> rows * columns == 0
    rebuilt = torch.zeros(rows, columns)
    for place, code in zip(kept, packed["codes"].tolist(), strict=True):
        scale = packed["code_scales"][place // columns].float() if dtype == "int8" else 1
        rebuilt[place // columns, place % columns] = code[0] * scale
    torch.testing.assert_close(rebuilt, matrix.code_matrix())
    again = CodedMatrix(3, columns, rows, codes, dtype=dtype)
    take_tensors(again, packed)
    assert torch.equal(again.matrix(), matrix.matrix()) and torch.equal(again.index, matrix.index)
    wrong = packed["mask"].clone()
    wrong[kept[0] // 8] ^= 1 << kept[0] % 8
    with pytest.raises(UserError, match=f"tensor mask has {codes - 1} bits, expected {codes}"):
        take_tensors(again, packed | {"mask": wrong})
    if rows * columns % 8:  # one beyond the end for one that is there
        wrong[-1] ^= 128
        with pytest.raises(UserError, match="mask names a row twice or one beyond"):
            take_tensors(again, packed | {"mask": wrong})


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("shifts", [Shifts(), Shifts(1)])
@pytest.mark.parametrize("atoms,blocks,block", [(5, 7, 2), (5, 20, 1), (300, 90, 1), (None, 9, 1), (5, None, 1)])
def test_stored_tensors_load_like_a_state_dict(atoms, blocks, block, shifts, dtype):
    torch.manual_seed(0)
    model, again = (torch.nn.ModuleDict({"a": CodedMatrix(6, 8, atoms, blocks, block, dtype, shifts)}) for _ in "12")
    if blocks:
        model["a"].index.copy_(torch.randperm(8 // block * (atoms or 6))[:blocks].sort().values)
    if model["a"].offsets is not None:
        model["a"].offsets.random_(-1, 2)
    stored = {f"a.{name}": value for name, value in to_tensors(model["a"]).items()}
    drawn = torch.random.get_rng_state()
    filled = {**again.state_dict(), **stored}  # ESPnet's --init_param
    for state in (stored, filled):
        again["a"].reset_parameters()
        again.load_state_dict(state)
        assert torch.equal(again["a"].matrix(), model["a"].matrix())
        rounded = ("dictionary", "codes") if dtype == "int8" else ()
        assert all(name in rounded or torch.equal(again["a"].state_dict()[name], value)
                   for name, value in model["a"].state_dict().items())  # fmt: skip
    if dtype == "float32":
        wide = copy.deepcopy(model).double()
        again.double().load_state_dict({f"a.{name}": value for name, value in to_tensors(wide["a"]).items()})
        assert torch.equal(again["a"].matrix(), wide["a"].matrix()) and again.float()
    torch.random.set_rng_state(drawn)
    again.load_state_dict(stored)
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_stored_tensors_that_do_not_fit_are_not_loaded():
    """Even where ESPnet loads without looking at names."""
    matrix, other = CodedMatrix(6, 8, 5, 20), CodedMatrix(6, 8, 5, 20, dtype="int8")
    before = {name: value.clone() for name, value in matrix.state_dict().items()}
    stored = to_tensors(matrix)
    for wrong, said in [
        (stored | {"mask": stored["mask"].flip(0) & 1}, "tensor mask has [0-9]+ bits, expected 20"),
        ({name: value for name, value in stored.items() if name != "codes"}, "tensor codes is missing"),
        (to_tensors(other), "tensor code_scales is unexpected"),
    ]:
        with pytest.raises(RuntimeError, match=said):
            matrix.load_state_dict(wrong, strict=False)
    assert all(torch.equal(before[name], value) for name, value in matrix.state_dict().items())
