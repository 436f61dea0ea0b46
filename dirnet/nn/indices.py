"""Where the kept blocks of a sparse Z stand, as a file tells it, and how many bytes that takes.

Either column by column, the row of every block and how many blocks each block column has; or, of single int8 codes
where that is less, a bit for every place of Z. A program has bits where the file has them; else its rows take a byte
each, by runs of 256 (`dirnet.deploy.packing`).
"""

from __future__ import annotations

import torch
from torch import Tensor

RUN = 256  # rows that a byte tells apart


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


def row_dtype(code_rows: int) -> torch.dtype:
    """The smallest type that names each of `code_rows` rows."""
    if code_rows <= 256:
        return torch.uint8
    return torch.uint16 if code_rows <= 65536 else torch.uint32


def runs(code_rows: int) -> int:
    """How many runs of 256 rows a program has of `code_rows`, the last one of what is left."""
    return -(-code_rows // RUN)


def _mask_bytes(code_rows: int, columns: int) -> int:
    return -(-code_rows * columns // 8)


def _row_bytes(code_rows: int, columns: int, blocks: int, block: int) -> int:
    return blocks * row_dtype(code_rows).itemsize + columns // block * torch.uint16.itemsize
