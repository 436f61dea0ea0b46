"""A weight matrix kept as dictionary times codes, with only the kept codes as parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.factorization import Factors
from dirnet.factorization.shift import IDENTITY, Shifts
from dirnet.nn.quantised import SCALE_BYTES, check_dtype, dequantise, quantise, rounded


class CodedMatrix(nn.Module):
    """`W^T ~ D Z`, shape `(rows, columns)` = (N, M): N values are read, M gate values are written.

    `dictionary` (N, p) is a parameter, or absent (`atoms=None`): then Z itself is (N, M) and p = N.
    `codes` is (p, M) when `blocks` is None (a dense Z, as the SVD has). Otherwise it is (blocks, block): `block`
    consecutive columns of one row of Z each, with `index` (blocks,) int32 their flat, ascending places in the
    (p, M / block) grid. The zeros of Z exist nowhere, so no optimizer, weight decay, resume or DDP can move them.
    `dtype` "int8": the parameters stay float, for training; whatever is computed, stored or told uses them rounded.
    With `shifts` (Eq. 9; none without a dictionary) the buffer `offsets` int8 says for every block of codes, kept ones
    or those of a dense Z, by how many rows its atom is moved. vectors: how many vectors of size N are read per step.
    How an atom and its row of Z share their scale is open; `compress` gives both one root mean square, for Adam's sake.
    """

    vectors = 1

    def __init__(
        self, rows: int, columns: int, atoms: int | None = None, blocks: int | None = None, block: int = 1,
        dtype: str = "float32", shifts: Shifts = IDENTITY,
    ):  # fmt: skip
        super().__init__()
        code_rows = rows if atoms is None else atoms
        if block < 1 or columns % block:
            raise UserError(f"block {block} does not divide the {columns} columns of a coded matrix; use a divisor")
        grid = code_rows * (columns // block)
        if not 0 < code_rows or not (blocks is None or 0 <= blocks <= grid):
            raise UserError(f"layout [{atoms}, {blocks}] does not fit a {rows}x{columns} matrix in blocks of {block}")
        self.rows, self.columns, self.block, self.dtype = rows, columns, block, check_dtype(dtype)
        self.dictionary = None if atoms is None else nn.Parameter(torch.empty(rows, atoms))
        if blocks is None:
            self.codes = nn.Parameter(torch.empty(code_rows, columns))
            self.index: Tensor | None = None
        else:
            self.codes = nn.Parameter(torch.empty(blocks, block))
            places = torch.arange(blocks, dtype=torch.int64) * grid // max(blocks, 1)
            self.register_buffer("index", places.to(torch.int32))
        self.shifts = IDENTITY if atoms is None else shifts
        if self.shifts.reach:
            shifts.check(rows)
            self.register_buffer("offsets", torch.zeros(grid if blocks is None else blocks, dtype=torch.int8))
        else:
            self.offsets: Tensor | None = None
        self.reset_parameters()

    @classmethod
    def from_factors(cls, factors: Factors, block: int = 1, dtype: str = "float32") -> CodedMatrix:
        """The matrix of `factors` (dictionary (N, p) or None, codes (p, M)); all-zero blocks are dropped.

        Atoms that no code uses are dropped too; a Z without an all-zero block is kept dense.
        """
        dictionary, codes = factors.dictionary, factors.codes.detach().float()
        if codes.shape[1] % block:
            raise UserError(f"block {block} does not divide the {codes.shape[1]} columns of the codes; use a divisor")
        offsets = factors.offsets
        if dictionary is not None:
            used = codes.ne(0).any(dim=1)
            if not used.any():
                used[0] = True  # an empty model still needs a shape
            dictionary, codes = dictionary.detach().float()[:, used], codes[used]
            offsets = None if offsets is None else _block_offsets(offsets[used], codes, block)
        rows = codes.shape[0] if dictionary is None else dictionary.shape[0]
        blocks = codes.reshape(-1, block)
        kept = blocks.ne(0).any(dim=1).nonzero().squeeze(1)
        dense = len(kept) == len(blocks)
        atoms = None if dictionary is None else dictionary.shape[1]
        coded = cls(rows, codes.shape[1], atoms, None if dense else len(kept), block, dtype, factors.shifts)
        with torch.no_grad():
            if dictionary is not None:
                coded.dictionary.copy_(dictionary)
            coded.codes.copy_(codes if dense else blocks[kept])
            if not dense:
                coded.index.copy_(kept)
            if coded.offsets is not None:
                coded.offsets.copy_(offsets[kept])
        return coded

    def reset_parameters(self, bound: float = 0.1) -> None:
        """Random unit atoms and codes such that the entries of `matrix()` have the variance of uniform(+-bound)."""
        with torch.no_grad():
            density = 1.0 if self.index is None else self.codes.numel() / (self.code_rows * self.columns)
            fan = density
            if self.dictionary is not None:
                self.dictionary.normal_()
                self.dictionary.div_(self.dictionary.norm(dim=0, keepdim=True))
                fan = density * self.atoms / self.rows
            scale = bound / math.sqrt(max(fan, 1e-12))
            self.codes.uniform_(-scale, scale)

    @property
    def atoms(self) -> int | None:
        """p, or None without a dictionary."""
        return None if self.dictionary is None else self.dictionary.shape[1]

    @property
    def code_rows(self) -> int:
        """Rows of Z: p, or N without a dictionary."""
        return self.rows if self.dictionary is None else self.dictionary.shape[1]

    @property
    def blocks(self) -> int | None:
        """Number of kept blocks, or None when Z is dense."""
        return None if self.index is None else self.codes.shape[0]

    @property
    def layout(self) -> list[int | None]:
        """`[atoms, blocks]`: with N, M and the block size all it takes to build an empty copy."""
        return [self.atoms, self.blocks]

    def code_matrix(self) -> Tensor:
        """Z with its zeros, (p, M), rounded in int8; gradients reach the kept codes."""
        codes = self.latent_codes()
        return rounded(codes, 1) if self.dtype == "int8" else codes

    def code_values(self) -> Tensor:
        """The kept codes in the shape of `codes`, rounded in int8."""
        if self.dtype == "float32":
            return self.codes
        codes = self.code_matrix()
        return codes if self.index is None else codes.view(-1, self.block)[self.index.long()]

    def dictionary_values(self) -> Tensor | None:
        """D (N, p), rounded in int8, or None."""
        if self.dictionary is None or self.dtype == "float32":
            return self.dictionary
        return rounded(self.dictionary, 0)

    def latent_codes(self) -> Tensor:
        """Z with its zeros, (p, M), as it is trained: not rounded."""
        if self.index is None:
            return self.codes
        grid = self.codes.new_zeros(self.code_rows * (self.columns // self.block), self.block)
        return grid.index_copy(0, self.index.long(), self.codes).view(self.code_rows, self.columns)

    def matrix(self) -> Tensor:
        """`D Z`, with shifts `sum_delta delta(D) Z_delta`: the (N, M) matrix that stands for `W^T`."""
        if self.offsets is not None:
            return self.shifts.expand(self.dictionary_values()) @ self._tall()
        codes = self.code_matrix()
        return codes if self.dictionary is None else self.dictionary_values() @ codes

    def unshifted(self) -> CodedMatrix:
        """The same matrix without shifts: a detached copy whose dictionary holds every shifted atom that is used."""
        if self.offsets is None:
            return self
        expanded = Factors(self.shifts.expand(self.dictionary_values()), self._tall())
        coded = CodedMatrix.from_factors(expanded, self.block)
        coded.vectors = self.vectors
        return coded

    def _places(self) -> tuple[Tensor, Tensor]:
        """Row (which atom, and which shift of it) and column of every block among the codes of the expanded D."""
        width = self.columns // self.block
        index = torch.arange(len(self.offsets), device=self.offsets.device) if self.index is None else self.index.long()
        return index // width * len(self.shifts) + self.shifts.positions(self.offsets), index % width

    def _tall(self) -> Tensor:
        """The codes of the expanded dictionary, (p |Delta|, M); gradients reach the kept codes."""
        pairs, column = self._places()
        width = self.columns // self.block
        grid = self.codes.new_zeros(self.code_rows * len(self.shifts) * width, self.block)
        kept = self.code_values().reshape(-1, self.block)
        return grid.index_copy(0, pairs * width + column, kept).view(-1, self.columns)

    def params(self) -> int:
        """`N p + nnz(Z)`, a block counting whole."""
        return sum(parameter.numel() for parameter in self.parameters())

    def macs(self) -> int:
        """Multiply-adds to apply the matrix once: as many as there are parameters, unless shifts say otherwise.

        `u` has a value, N multiply-adds, for every used pair of atom and shift, and that for each vector that is read.
        """
        if self.dictionary is None:
            return self.params()
        read = self.atoms if self.offsets is None else len(self._places()[0].unique())
        return self.vectors * self.rows * read + self.codes.numel()

    def float_bytes(self) -> int:
        """Bytes of the values, as floats, and indices."""
        values = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())
        shifted = self.offsets is not None
        return values + index_bytes(self.code_rows, self.columns, self.blocks, self.block, 4, shifted)

    def stored_bytes(self) -> int:
        """Bytes of the values, scales and indices that `packed()` returns."""
        if self.dtype == "float32":
            return self.float_bytes()
        values = self.params() + SCALE_BYTES * ((self.atoms or 0) + self.code_rows)
        return values + index_bytes(self.code_rows, self.columns, self.blocks, self.block, 1, self.offsets is not None)

    def packed(self) -> dict[str, Tensor]:
        """The matrix as it is stored: `dictionary`, `codes`; `rows` and `counts`, or `mask`, if sparse; `offsets`.

        Blocks go column by column: `counts[c]` (uint16) blocks in block column c, `rows` (uint8 for p <= 256, else
        uint16) their rows of Z, ascending in a column. Single int8 codes, where that takes fewer bytes, go row by row:
        `mask` (p M / 8) uint8 has a bit for every place, the lowest of a byte first. `offsets` (int8) of shifted atoms
        go with the blocks. In int8 also bfloat16 scales: `dictionary_scales` (p,) of the atoms, `code_scales` (p,) of
        the rows of Z.
        """
        tensors = {} if self.dictionary is None else {"dictionary": self.dictionary.detach()}
        codes = self.codes.detach()
        if self.dtype == "int8":
            if self.dictionary is not None:
                tensors["dictionary"], tensors["dictionary_scales"] = quantise(tensors["dictionary"], 0)
            codes, tensors["code_scales"] = quantise(self.latent_codes().detach(), 1)
            codes = codes if self.index is None else codes.view(-1, self.block)[self.index.long()]
        if self.offsets is not None:
            tensors["offsets"] = self.offsets
        if self.index is None:
            return tensors | {"codes": codes}
        if is_masked(self.code_rows, self.columns, self.blocks, self.block, codes.element_size()):
            kept = torch.zeros(self.code_rows * self.columns, dtype=torch.bool, device=codes.device)
            kept[self.index.long()] = True
            return tensors | {"codes": codes, "mask": to_mask(kept)}
        index, width = self.index.long(), self.columns // self.block
        row, column = index // width, index % width
        order = torch.argsort(column * self.code_rows + row)
        tensors["codes"] = codes[order]
        if self.offsets is not None:
            tensors["offsets"] = self.offsets[order]
        tensors["rows"] = row[order].to(_row_dtype(self.code_rows))
        tensors["counts"] = torch.bincount(column, minlength=width).to(torch.uint16)
        return tensors

    def load_packed(self, tensors: dict[str, Tensor]) -> None:
        """Take what `packed()` gave; another shape or an impossible index is a `UserError`."""
        expected = self.packed()
        for name in sorted(expected.keys() | tensors.keys()):
            if name not in tensors or name not in expected:
                raise UserError(f"tensor {name} is {'missing' if name in expected else 'unexpected'}")
            if (tensors[name].shape, tensors[name].dtype) != (expected[name].shape, expected[name].dtype):
                found, wanted = ((list(t.shape), t.dtype) for t in (tensors[name], expected[name]))
                raise UserError(f"tensor {name} is {found}, expected {wanted}")
        dictionary, codes, offsets = tensors.get("dictionary"), tensors["codes"], tensors.get("offsets")
        row = torch.arange(self.code_rows)
        if offsets is not None and bool((offsets.long().abs() > self.shifts.reach).any()):
            raise UserError(f"tensor offsets moves an atom by more than {self.shifts.reach} rows")
        if self.index is not None:
            width = self.columns // self.block
            if "mask" in tensors:
                places = from_mask(tensors["mask"]).nonzero().squeeze(1)
                if len(places) != len(codes):
                    raise UserError(f"tensor mask has {len(places)} bits, expected {len(codes)}")
            else:
                counts = tensors["counts"].long()
                if int(counts.sum()) != len(codes):
                    raise UserError(f"tensor counts adds up to {int(counts.sum())} blocks, expected {len(codes)}")
                places = tensors["rows"].long() * width + torch.repeat_interleave(torch.arange(width), counts)
            places, order = places.sort()
            if len(places) and (int(places[-1]) >= self.code_rows * width or bool((places.diff() == 0).any())):
                name = "mask" if "mask" in tensors else "rows"
                raise UserError(f"tensor {name} names a row twice or one beyond {self.code_rows - 1}")
            self.index.copy_(places)
            codes, row = codes[order], places // width
            offsets = None if offsets is None else offsets[order]
        if self.dtype == "int8":
            codes = dequantise(codes, tensors["code_scales"][row], 1)
            dictionary = None if dictionary is None else dequantise(dictionary, tensors["dictionary_scales"], 0)
        with torch.no_grad():
            self.codes.copy_(codes)
            if dictionary is not None:
                self.dictionary.copy_(dictionary)
            if offsets is not None:
                self.offsets.copy_(offsets)
        if self.dtype == "int8":  # a scale is that of the largest value, which is +-127
            again = self.packed()
            for name in (name for name in again if not torch.equal(again[name], tensors[name])):
                raise UserError(f"tensor {name} is not what rounding to int8 gives; write the model with this version")

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        """As torch's; an index that names no place, or one twice, is an error like a wrong shape."""
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        if self.index is None or self.index.is_meta or not len(self.index):
            return
        places, index = self.code_rows * self.columns // self.block, self.index.long()
        if int(index[0]) < 0 or int(index[-1]) >= places or bool((index.diff() <= 0).any()):
            errors.append(f"{prefix}index is not {len(index)} ascending places from 0 to {places - 1}")

    def extra_repr(self) -> str:
        shape = f"{self.rows}, {self.columns}, atoms={self.atoms}, blocks={self.blocks}, block={self.block}"
        shifts = f", shifts={self.shifts.reach} ({self.shifts.kind})" if self.shifts.reach else ""
        return f"{shape}, dtype={self.dtype}{shifts}"


def index_bytes(
    code_rows: int, columns: int, blocks: int | None, block: int, value_bytes: int = 4, shifted: bool = False
) -> int:
    """Bytes of the indices of `blocks` kept blocks of a (code_rows, columns) Z; none for a dense Z (None).

    value_bytes: of a code, 4 or 1 (int8). shifted: every block has its offset, too, also where Z is dense.
    """
    moves = (code_rows * columns // block if blocks is None else blocks) * torch.int8.itemsize if shifted else 0
    if blocks is None:
        return moves
    masked = is_masked(code_rows, columns, blocks, block, value_bytes)
    return moves + (_mask_bytes(code_rows, columns) if masked else _row_bytes(code_rows, columns, blocks, block))


def is_masked(code_rows: int, columns: int, blocks: int, block: int, value_bytes: int) -> bool:
    """Whether bits tell the places of the codes: of single int8 ones, from about 1 in 8 kept on if p <= 256.

    There they save up to half of all bytes; of floats and of wider blocks little.
    """
    fewer = _mask_bytes(code_rows, columns) < _row_bytes(code_rows, columns, blocks, block)
    return block == 1 and value_bytes == 1 and fewer


def to_mask(kept: Tensor) -> Tensor:
    """Bits of `kept` (places,) bool as uint8, the lowest of a byte first; what is left of the last byte is 0."""
    bits = torch.zeros(-(-len(kept) // 8), 8, dtype=torch.uint8, device=kept.device)
    bits.view(-1)[: len(kept)] = kept
    return (bits << torch.arange(8, device=bits.device)).sum(dim=1).to(torch.uint8)


def from_mask(mask: Tensor) -> Tensor:
    """The bits of `mask`, bool, eight a byte."""
    return (mask.unsqueeze(1) >> torch.arange(8, device=mask.device) & 1).flatten().bool()


def _mask_bytes(code_rows: int, columns: int) -> int:
    return -(-code_rows * columns // 8)


def _row_bytes(code_rows: int, columns: int, blocks: int, block: int) -> int:
    return blocks * _row_dtype(code_rows).itemsize + columns // block * torch.uint16.itemsize


def _block_offsets(offsets: Tensor, codes: Tensor, block: int) -> Tensor:
    """One offset for each block of Z (p, M), in row order; a block of several is a `UserError`."""
    grid, values = offsets.reshape(-1, block), codes.reshape(-1, block)
    shared = grid.gather(1, values.abs().argmax(1, keepdim=True))
    if bool(((grid != shared) & values.ne(0)).any()):
        raise UserError(f"a block of {block} codes has several shifts; solve with block={block}, or load with block 1")
    return shared[:, 0]


def _row_dtype(code_rows: int) -> torch.dtype:
    if code_rows <= 256:
        return torch.uint8
    return torch.uint16 if code_rows <= 65536 else torch.uint32
