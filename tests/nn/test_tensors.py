"""A coded matrix as stored tensors: read back by loops, and what is not one is refused."""

import pytest
import torch

from dirnet.errors import UserError
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.tensors import take_tensors, to_tensors


@pytest.mark.parametrize("atoms,blocks,block,dtype", [(5, 7, 2, "int8"), (5, 30, 1, "float32"), (300, 90, 1, "int8")])
def test_blocks_are_stored_column_by_column(atoms, blocks, block, dtype):
    torch.manual_seed(0)
    matrix = CodedMatrix(3, 8, atoms, blocks, block, dtype)
    places = torch.randperm(8 // block * atoms)[:blocks].sort().values
    matrix.index.copy_(places)
    packed = to_tensors(matrix)
    rebuilt = torch.zeros(atoms, 8)
    position = 0
    for column, count in enumerate(packed["counts"].tolist()):
        rows = packed["rows"][position : position + count].tolist()
        assert rows == sorted(rows)
        for row in rows:
            scale = packed["code_scales"][row].float() if dtype == "int8" else 1
            rebuilt[row, block * column : block * (column + 1)] = packed["codes"][position].float() * scale
            position += 1
    torch.testing.assert_close(rebuilt, matrix.code_matrix())
    torch.testing.assert_close(matrix.matrix(), matrix.dictionary_values() @ rebuilt)


@pytest.mark.parametrize("rows,columns,codes", [(5, 9, 6), (300, 8, 280)])
def test_single_bytes_are_stored_row_by_row_with_a_bit_for_every_place_where_that_is_less(rows, columns, codes):
    """45 places are 6 bytes of bits, as numbers 9 counts of two bytes; 300 rows have numbers of two bytes."""
    torch.manual_seed(0)
    matrix = CodedMatrix(3, columns, rows, codes, dtype="int8")
    matrix.index.copy_(torch.randperm(rows * columns)[:codes].sort().values)
    packed = to_tensors(matrix)
    assert set(packed) == {"dictionary", "dictionary_scales", "codes", "code_scales", "mask"}
    number = int.from_bytes(bytes(packed["mask"].tolist()), "little")
    kept = [place for place in range(rows * columns) if number >> place & 1]
    assert kept == matrix.index.tolist() and number >> rows * columns == 0
    rebuilt = torch.zeros(rows, columns)
    for place, code in zip(kept, packed["codes"].tolist(), strict=True):
        rebuilt[place // columns, place % columns] = code[0] * packed["code_scales"][place // columns].float()
    torch.testing.assert_close(rebuilt, matrix.code_matrix())
    again = CodedMatrix(3, columns, rows, codes, dtype="int8")
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
