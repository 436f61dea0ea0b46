"""A weight matrix kept as dictionary times codes, with only the kept codes as parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.factorization import Factors
from dirnet.factorization.shift import IDENTITY, Shifts
from dirnet.nn.indices import index_bytes
from dirnet.nn.quantised import SCALE_BYTES, check_dtype
from dirnet.nn.tensors import restore_state


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

        Atoms that no code uses are dropped too. A Z without an all-zero block is kept dense, as is one that is to be.
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
        dense = factors.dense or len(kept) == len(blocks)
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
        return self._spread(self.code_values())

    def code_values(self) -> Tensor:
        """The kept codes in the shape of `codes`, rounded in int8."""
        if self.dtype == "float32":
            return self.codes
        from dirnet.nn.rounding import rounded, rounded_blocks

        if self.index is None:
            return rounded(self.codes, 1)
        return rounded_blocks(self.codes, self.index.long() // (self.columns // self.block), self.code_rows)

    def dictionary_values(self) -> Tensor | None:
        """D (N, p), rounded in int8, or None."""
        if self.dictionary is None or self.dtype == "float32":
            return self.dictionary
        from dirnet.nn.rounding import rounded

        return rounded(self.dictionary, 0)

    def latent_codes(self) -> Tensor:
        """Z with its zeros, (p, M), as it is trained: not rounded."""
        return self._spread(self.codes)

    def _spread(self, codes: Tensor) -> Tensor:
        """Kept codes, in the shape of `codes`, at their places: (p, M)."""
        if self.index is None:
            return codes
        grid = codes.new_zeros(self.code_rows * (self.columns // self.block), self.block)
        return grid.index_copy(0, self.index.long(), codes).view(self.code_rows, self.columns)

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

    def stored_bytes(self) -> int:
        """Bytes of the values, scales and indices that are stored, see `dirnet.nn.tensors`."""
        if self.dtype == "int8":
            values = self.params() + SCALE_BYTES * ((self.atoms or 0) + self.code_rows)
        else:
            values = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())
        shifted = self.offsets is not None
        return values + index_bytes(self.code_rows, self.columns, self.blocks, self.block, shifted)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        """As torch's, also of stored tensors (`dirnet.nn.tensors`), as packages hold them.

        An index that names no place, or one twice, and a shift too far are errors like a wrong shape.
        """
        try:
            restore_state(self, state_dict, prefix)
        except UserError as error:
            errors.append(f"{prefix.removesuffix('.')}: {error}")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        if self.offsets is not None and not self.offsets.is_meta:
            if bool((self.offsets.long().abs() > self.shifts.reach).any()):
                errors.append(f"{prefix}offsets moves an atom by more than {self.shifts.reach} rows")
        if self.index is None or self.index.is_meta or not len(self.index):
            return
        places, index = self.code_rows * self.columns // self.block, self.index.long()
        if int(index[0]) < 0 or int(index[-1]) >= places or bool((index.diff() <= 0).any()):
            errors.append(f"{prefix}index is not {len(index)} ascending places from 0 to {places - 1}")

    def extra_repr(self) -> str:
        shape = f"{self.rows}, {self.columns}, atoms={self.atoms}, blocks={self.blocks}, block={self.block}"
        shifts = f", shifts={self.shifts.reach} ({self.shifts.kind})" if self.shifts.reach else ""
        return f"{shape}, dtype={self.dtype}{shifts}"


def _block_offsets(offsets: Tensor, codes: Tensor, block: int) -> Tensor:
    """One offset for each block of Z (p, M), in row order; a block of several is a `UserError`."""
    grid, values = offsets.reshape(-1, block), codes.reshape(-1, block)
    shared = grid.gather(1, values.abs().argmax(1, keepdim=True))
    if bool(((grid != shared) & values.ne(0)).any()):
        raise UserError(f"a block of {block} codes has several shifts; solve with block={block}, or load with block 1")
    return shared[:, 0]
