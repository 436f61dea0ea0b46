import math

import pytest
import torch

from dirnet.deploy import ops
from dirnet.deploy.packing import ALIGNMENT, HEADER_BYTES, _sections, pack, read_size, stored_matrix, unpack
from dirnet.factorization import Factors
from dirnet.factorization.shift import Shifts
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.tensors import to_tensors


def applied(matrix, rows):
    """The dense matrix that `matrix` stands for, in int8 without the rounding of activations."""
    return ops.write(matrix, ops.read(matrix, torch.eye(rows)))


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("block, start, stop", [(1, 0, 20), (8, 16, 48), (32, 32, 64), (12, 24, 48), (10, 25, 50)])
def test_slices_of_codes_keep_their_values(block, start, stop, dtype):
    columns = math.lcm(block, 2 * (stop - start))
    group = CodedMatrix(30, columns, 9, int(0.4 * 9 * columns / block), block, dtype)
    matrix = stored_matrix(group, start, stop, None, False)
    scales = to_tensors(group)["code_scales"].float()[:, None] if dtype == "int8" else 1.0
    torch.testing.assert_close(ops.code_matrix(matrix) * scales, group.code_matrix()[:, start:stop])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["circular", "zero"])
@pytest.mark.parametrize("atoms, blocks", [(9, None), (9, 70), (60, 300), (120, None), (120, 400)])
def test_shifts_are_kept_beside_the_atoms_once(kind, atoms, blocks):
    group = CodedMatrix(30, 48, atoms, blocks, 4, shifts=Shifts(2, kind))
    group.offsets.random_(-2, 3)
    matrix = stored_matrix(group, 0, 48, None, True)
    assert matrix.dictionary.shape == (30, atoms) and matrix.code_rows == read_size(group) == 5 * atoms
    torch.testing.assert_close(applied(unpack(pack(matrix, matrix))[1], 30), group.matrix())


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("atoms, blocks, block", [(None, None, 1), (5, None, 1), (5, 9, 8), (7, 40, 1), (None, 11, 4),
                                                  (300, 50, 2), (7, 90, 1), (300, 900, 2), (300, 99, 1),
                                                  (600, 500, 8), (600, 60, 16), (120, 700, 4)])  # fmt: skip
def test_a_layer_comes_back_from_its_bytes(atoms, blocks, block, dtype):
    group = CodedMatrix(19, 48, atoms, blocks, block, dtype, Shifts(1) if atoms in (5, 120) else Shifts())
    inputs = stored_matrix(CodedMatrix(7, 48, None, None, 1, dtype), 0, 48, None, True)
    recurrent = stored_matrix(group, 0, 48, torch.randn(48), True)
    for before, after in zip((inputs, recurrent), unpack(pack(inputs, recurrent)), strict=True):
        for name in ("dictionary", "codes", "index", "counts", "bias", "atom_scales", "row_scales"):
            a, b = getattr(before, name), getattr(after, name)
            assert (a is None) == (b is None), name
            assert a is None or torch.equal(a, b), name
        assert (before.rows, before.shifts) == (after.rows, after.shifts)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("block", [1, 8, 16])
@pytest.mark.parametrize("rows, empty", [(256, 9), (257, 9), (512, 1), (600, 9), (600, 0), (600, 1), (600, 2)])
def test_runs_of_rows_follow_one_another(rows, empty, block, dtype):
    """A run is 256 rows, the last what is left, and may have no codes; read here as `csrc/layer.h` says."""
    torch.manual_seed(rows)
    places = torch.rand(rows, 48 // block) < 0.05
    places[256 * empty : 256 * (empty + 1)] = False
    codes = torch.randn(rows, 48) * places.repeat_interleave(block, dim=1)
    matrix = stored_matrix(CodedMatrix.from_factors(Factors(None, codes), block, dtype), 0, 48, None, True)
    histogram, order, index, _ = list(_sections(matrix))[-4:]
    histogram, order, index = histogram.long(), order.long().view(-1, 48 // block), index.long().tolist()
    assert len(histogram) == len(order) == -(-rows // 256) and not matrix.masked
    found = torch.zeros_like(places)
    for run, (numbers, columns) in enumerate(zip(histogram, order, strict=True)):
        counts = torch.repeat_interleave(torch.arange(len(numbers)), numbers)
        for column, count in zip(columns.tolist(), counts.tolist(), strict=True):
            taken, index = index[:count], index[count:]
            found[[256 * run + row for row in taken], column] = True
    assert not index and torch.equal(found, places)
    again = unpack(pack(matrix, matrix))[1]
    assert torch.equal(again.index, matrix.index) and torch.equal(again.codes, matrix.codes)


@torch.no_grad()
def test_rows_without_codes_do_not_coarsen_the_steps_of_int8():
    group = CodedMatrix(200, 48, None, 100, 8, "int8")  # pruned: half of what it reads no code uses
    assert not group.code_matrix().any(dim=1).all()
    matrix, x = stored_matrix(group, 0, 48, None, True), torch.randn(20, 200)
    found, expected = ops.write(matrix, ops.read(matrix, x)), x @ group.matrix()
    assert float((found - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("atoms, blocks, block", [(20, 70, 8), (20, 300, 8), (300, 800, 8), (300, 3000, 8),
                                                  (600, 2000, 8), (20, 1500, 1), (300, 30000, 1)])  # fmt: skip
def test_a_layer_takes_its_counted_bytes(atoms, blocks, block, dtype):
    """Header, histograms and alignment of eleven sections aside, the bytes of biases and of what is stored are all."""
    group = CodedMatrix(64, 256, atoms, blocks, block, dtype)
    matrix = stored_matrix(group, 0, 256, torch.randn(256), True)
    assert matrix.masked == (block == 1)
    counts = matrix.run_counts()
    extra = pack(matrix, matrix).numel() - 2 * (group.stored_bytes() + 256 * 4)
    histograms = 0 if matrix.masked else 2 * 2 * len(counts) * (int(counts.max()) + 1)
    assert HEADER_BYTES <= extra <= HEADER_BYTES + histograms + 11 * ALIGNMENT


def test_empty_codes_are_stored_as_nothing():
    matrix = stored_matrix(CodedMatrix(6, 16, 3, 0, 8), 8, 16, None, True)
    assert (len(matrix.codes), matrix.index.tolist(), matrix.counts.tolist(), matrix.block) == (0, [], [0], 8)
    assert not applied(unpack(pack(matrix, matrix))[1], 6).any()
