"""A recurrent layer as the kernels read it: one contiguous block of bytes. `csrc/layer.h` describes every section."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dirnet.factorization.shift import Shifts
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.indices import RUN, from_mask, is_masked, runs, to_mask
from dirnet.nn.tensors import values_of

BLOCKS = (1, 2, 4, 8, 16)
PANEL = 16
HEADER_BYTES, ALIGNMENT = 128, 64
LAYOUT = "DNL4"  # another one, and another version of the package, which refuses older programs, if a section changes
_GROUP = 4  # rows that a dot product instruction adds up


@dataclass(frozen=True)
class StoredMatrix:
    """`y = Z^T u + bias` of `u = D^T x`, or of `u = x` without dictionary; values are float32 or int8.

    dictionary: (N, p) or None. codes: (rows of Z, M), or (blocks, block) with `index` (blocks,), the row of Z of each,
    shift s of atom j being row s p + j, and `counts` (M / block,), how many lie in each block column, one column after
    the other. atom_scales (p,) and row_scales (p,), without dictionary (N,), are bfloat16, None of float32; row_scales
    are also None where what is read has them already.
    """

    rows: int
    dictionary: Tensor | None
    codes: Tensor
    index: Tensor | None = None
    counts: Tensor | None = None
    bias: Tensor | None = None
    atom_scales: Tensor | None = None
    row_scales: Tensor | None = None
    shifts: Shifts = Shifts()

    @property
    def atoms(self) -> int:
        """p, or 0 without a dictionary."""
        return 0 if self.dictionary is None else self.dictionary.shape[1]

    @property
    def code_rows(self) -> int:
        """Rows of Z: what `u` has."""
        return self.atoms * len(self.shifts) if self.atoms else self.rows

    @property
    def columns(self) -> int:
        """M."""
        return self.codes.shape[1] if self.index is None else len(self.counts) * self.codes.shape[1]

    @property
    def masked(self) -> bool:
        """Whether bits say what `index` does."""
        shape = self.code_rows, self.columns, len(self.codes), self.block
        return self.index is not None and is_masked(*shape)

    @property
    def block(self) -> int:
        """Consecutive columns of a stored code, 0 for dense codes."""
        return 0 if self.index is None else self.codes.shape[1]

    def column(self) -> Tensor:
        """The block column of every block, (blocks,)."""
        return torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)

    def run_counts(self) -> Tensor:
        """How many blocks every block column has in every run of 256 rows of Z, (runs, M / block)."""
        number, width = runs(self.code_rows), len(self.counts)
        return torch.bincount(self.index // RUN * width + self.column(), minlength=number * width).view(number, width)


def stored_matrix(group: CodedMatrix, start: int, stop: int, bias: Tensor | None, dictionary: bool) -> StoredMatrix:
    """Columns `start:stop` of the codes of `group`: all gate columns of one consumer; with its dictionary or not.

    A block that the kernels do not know, or that straddles two consumers, is cut into the widest that fits.
    """
    tensors = values_of(group)
    atoms, scales = group.atoms, tensors.get("code_scales")
    if scales is not None:  # what no code reads, whose scale is 1, would be the largest of what u is rounded by
        scales = scales * group.code_matrix().detach().ne(0).any(dim=1)
    own = atoms is not None and dictionary
    common = {
        "rows": group.rows if own or atoms is None else read_size(group),
        "dictionary": tensors["dictionary"] if own else None,
        "atom_scales": tensors.get("dictionary_scales") if own else None,
        "row_scales": scales if own or atoms is None else None,
        "shifts": group.shifts if own else Shifts(),
        "bias": None if bias is None else bias.detach().clone(),
    }
    codes, offsets = tensors["codes"], group.offsets
    if group.index is None and offsets is None:
        return StoredMatrix(codes=codes[:, start:stop].contiguous(), **common)
    width = group.columns // group.block
    if group.index is None:  # of a dense Z every block has its shift
        places, values = torch.arange(group.code_rows * width), codes.reshape(-1, group.block)
    else:
        places, values = group.index.long(), codes
    row, column = places // width, places % width
    if offsets is not None:
        row = group.shifts.positions(offsets) * group.code_rows + row
    divisor = math.gcd(group.block, start, stop)
    block = max(size for size in BLOCKS if divisor % size == 0)
    pieces = group.block // block
    column = (column[:, None] * pieces + torch.arange(pieces)).reshape(-1) - start // block
    row, values, columns = row.repeat_interleave(pieces), values.reshape(-1, block), (stop - start) // block
    kept = ((column >= 0) & (column < columns)).nonzero().squeeze(1)
    order = kept[torch.argsort(column[kept] * read_size(group) + row[kept])]
    counts = torch.bincount(column[order], minlength=columns)
    return StoredMatrix(codes=values[order], index=row[order], counts=counts, **common)


def read_size(group: CodedMatrix) -> int:
    """How many values the codes of `group` read: the rows of Z, with shifts one per shift of an atom."""
    return group.code_rows * len(group.shifts)


def pack(inputs: StoredMatrix, recurrent: StoredMatrix) -> Tensor:
    """The block (bytes,) uint8 of a layer."""
    sections = [_bytes(torch.zeros(HEADER_BYTES, dtype=torch.uint8))]
    fields = []
    for matrix in (inputs, recurrent):
        sections += map(_bytes, _sections(matrix))
        fields += _fields(matrix)
    padded = [section + bytes(-len(section) % ALIGNMENT) for section in sections[:-1]] + sections[-1:]
    content = bytearray(b"".join(padded))
    header = np.array([int.from_bytes(LAYOUT.encode(), "little"), len(content), *fields], dtype="<i4").tobytes()
    content[: len(header)] = header
    return torch.frombuffer(content, dtype=torch.uint8)


def unpack(weights: Tensor) -> tuple[StoredMatrix, StoredMatrix]:
    """What `pack` was given."""
    reader = _Reader(weights)
    header = reader.content[:HEADER_BYTES].view("<i4").tolist()
    return _read_matrix(reader, *header[2:14]), _read_matrix(reader, *header[14:26])


def _fields(matrix: StoredMatrix) -> list[int]:
    """The matrix in the header."""
    blocks = 0 if matrix.index is None else len(matrix.index)
    block = 0 if matrix.masked else matrix.block
    circular, scaled = matrix.shifts.kind == "circular", matrix.row_scales is not None
    most = int(matrix.run_counts().max()) if block else 0
    return [matrix.rows, matrix.atoms, matrix.columns, block, blocks, most, matrix.codes.element_size(),
            matrix.shifts.reach, int(circular), int(matrix.bias is not None), int(scaled),
            int(matrix.masked)]  # fmt: skip


def _sections(matrix: StoredMatrix) -> Iterator[Tensor]:
    """What lies in the block, in its order."""
    if matrix.dictionary is not None:
        yield _panels(matrix.dictionary)
    if matrix.row_scales is not None:
        own = [] if matrix.atom_scales is None else [matrix.atom_scales]
        yield torch.cat([*own, matrix.row_scales])
    if matrix.masked:
        places = _places(matrix.code_rows, matrix.columns, matrix.codes.dtype)
        code = torch.full((len(places),), -1)
        code[matrix.index * matrix.columns + matrix.column()] = torch.arange(len(matrix.index))
        code = code[places]
        yield to_mask(code >= 0)
        slack = matrix.codes.new_zeros(_slack(matrix.codes.dtype))
        yield torch.cat([matrix.codes[code[code >= 0]].reshape(-1), slack])
    elif matrix.index is None:
        yield _panels(matrix.codes)
    else:
        counts = matrix.run_counts()
        order = counts.argsort(dim=1, stable=True)
        run = matrix.index // RUN
        rank = order.argsort(dim=1)[run, matrix.column()]  # of a block's column in its run
        blocks = (run * counts.shape[1] + rank).argsort(stable=True)
        yield torch.stack([numbers.bincount(minlength=int(counts.max()) + 1) for numbers in counts]).to(torch.uint16)
        yield order.to(torch.uint16)
        yield (matrix.index[blocks] % RUN).to(torch.uint8)
        columns = _block_columns(matrix.codes[blocks], counts.gather(1, order).flatten())
        yield torch.cat([_panel(column) for column in columns])
    if matrix.bias is not None:
        yield matrix.bias


def _read_matrix(
    reader: _Reader, rows, atoms, columns, block, blocks, most, width, reach, circular, has_bias, has_scales, masked
) -> StoredMatrix:
    shifts = Shifts(reach, "circular" if circular else "zero")
    code_rows = atoms * len(shifts) if atoms else rows
    values = {1: torch.int8, 4: torch.float32}[width]
    found = {"rows": rows, "shifts": shifts, "dictionary": None}
    if atoms:
        found["dictionary"] = _from_panels(reader.section(rows * atoms, values), atoms)
    if has_scales:
        scales = reader.section(2 * atoms or rows, torch.bfloat16)
        found["atom_scales"], found["row_scales"] = (scales[:atoms] if atoms else None), scales[atoms:]
    if masked:
        kept = from_mask(reader.section(-(-code_rows * columns // 8), torch.uint8))[: code_rows * columns]
        places = _places(code_rows, columns, values)[kept]
        order = (places % columns * code_rows + places // columns).argsort()
        index, counts = places[order] // columns, torch.bincount(places % columns, minlength=columns)
        codes = reader.section(blocks + _slack(values), values)
        found |= {"counts": counts, "index": index, "codes": codes[order, None]}
    elif block:
        number, width = runs(code_rows), columns // block
        histogram = reader.section(number * (most + 1), torch.uint16).long()
        column = reader.section(number * width, torch.uint16).long()
        index = reader.section(blocks, torch.uint8).long()
        counts = torch.repeat_interleave(torch.arange(most + 1).repeat(number), histogram)
        stored = reader.section(blocks * block, values).split((counts * block).tolist())
        codes = torch.cat([_from_panel(piece, block) for piece in stored])
        index += torch.repeat_interleave(torch.arange(number).repeat_interleave(width) * RUN, counts)
        column = torch.repeat_interleave(column, counts)
        order = (column * code_rows + index).argsort()
        counts = torch.bincount(column, minlength=width)
        found |= {"counts": counts, "index": index[order], "codes": codes[order]}
    else:
        found["codes"] = _from_panels(reader.section(code_rows * columns, values), columns)
    found["bias"] = reader.section(columns, torch.float32) if has_bias else None
    return StoredMatrix(**found)


class _Reader:
    """The sections of a block, one after the other."""

    def __init__(self, weights: Tensor):
        self.content, self.at = weights.numpy(), HEADER_BYTES

    def section(self, count: int, dtype: torch.dtype) -> Tensor:
        start = self.at + -self.at % ALIGNMENT
        self.at = start + count * dtype.itemsize
        values = torch.empty(count, dtype=dtype)
        values.view(torch.uint8).copy_(torch.from_numpy(self.content[start : self.at]))
        return values


def _panels(matrix: Tensor) -> Tensor:
    """(rows, columns) -> flat values: panels of 16 columns, the rest in panels of 8, 4, 2, 1."""
    return torch.cat([_panel(panel) for panel in matrix.split(_widths(matrix.shape[1]), dim=1)])


def _from_panels(values: Tensor, columns: int) -> Tensor:
    widths = _widths(columns)
    pieces = values.split([values.numel() // columns * width for width in widths])
    return torch.cat([_from_panel(piece, width) for piece, width in zip(pieces, widths, strict=True)], dim=1)


def _places(code_rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """The places of Z, row by row, in the order in which panels of `dtype` hold them."""
    panels = torch.arange(code_rows * columns).view(code_rows, columns).split(_widths(columns), dim=1)
    return torch.cat([_panel(panel, dtype) for panel in panels])


def _slack(dtype: torch.dtype) -> int:
    """Zeros behind codes with a mask, of floats as many as a vector may read beyond the last: kSpreadSlack."""
    return 0 if dtype == torch.int8 else 8


def _panel(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A panel or block column (rows, width) as it is stored, flat; of `dtype`, that of the values if None."""
    rows, width = values.shape
    if (dtype or values.dtype) == torch.float32:
        return values.reshape(-1)
    if width < _GROUP:
        return values.t().reshape(-1)
    grouped = rows - rows % _GROUP
    groups = values[:grouped].reshape(-1, _GROUP, width).transpose(1, 2)
    return torch.cat([groups.reshape(-1), values[grouped:].reshape(-1)])


def _from_panel(stored: Tensor, width: int) -> Tensor:
    rows = stored.numel() // width
    if stored.dtype == torch.float32:
        return stored.view(rows, width)
    if width < _GROUP:
        return stored.view(width, rows).t()
    grouped = rows - rows % _GROUP
    groups = stored[: grouped * width].view(-1, width, _GROUP).transpose(1, 2).reshape(grouped, width)
    return torch.cat([groups, stored[grouped * width :].view(-1, width)])


def _block_columns(codes: Tensor, counts: Tensor) -> Sequence[Tensor]:
    """The blocks of every block column; all at once where their order is that of the columns anyway."""
    plain = codes.dtype == torch.float32 or codes.shape[1] == 1
    return [codes.reshape(-1, 1)] if plain else codes.split(counts.tolist())


def _widths(columns: int) -> list[int]:
    rest = columns % PANEL
    return [PANEL] * (columns // PANEL) + [width for width in (8, 4, 2, 1) if rest & width]


def _bytes(section: Tensor) -> bytes:
    return section.contiguous().view(torch.uint8).numpy().tobytes()
