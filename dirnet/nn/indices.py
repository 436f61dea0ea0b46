"""Where the kept blocks of a sparse Z stand, as files and programs tell it, and how many bytes that takes.

Either a byte a block, its row in a run of 256 rows, run by run, and how many blocks each block column has in every run;
or, of single codes where that is less, a bit for every place of Z.
"""

from __future__ import annotations

import torch
from torch import Tensor

RUN = 256  # rows that a byte tells apart


def index_bytes(code_rows: int, columns: int, blocks: int | None, block: int, shifted: bool = False) -> int:
    """Bytes of the indices of `blocks` kept blocks of a (code_rows, columns) Z; none for a dense Z (None).

    shifted: every block has its offset, too, also where Z is dense.
    """
    moves = (code_rows * columns // block if blocks is None else blocks) * torch.int8.itemsize if shifted else 0
    if blocks is None:
        return moves
    masked = is_masked(code_rows, columns, blocks, block)
    return moves + (_mask_bytes(code_rows, columns) if masked else _row_bytes(code_rows, columns, blocks, block))


def is_masked(code_rows: int, columns: int, blocks: int, block: int) -> bool:
    """Whether bits tell the places of the codes: of single ones, from about 1 in 8 kept on.

    There they save up to a tenth of all bytes of float32 and up to half of int8; of wider blocks little.
    """
    return block == 1 and _mask_bytes(code_rows, columns) < _row_bytes(code_rows, columns, blocks, block)


def to_mask(kept: Tensor) -> Tensor:
    """Bits of `kept` (places,) bool as uint8, the lowest of a byte first; what is left of the last byte is 0."""
    bits = torch.zeros(-(-len(kept) // 8), 8, dtype=torch.uint8, device=kept.device)
    bits.view(-1)[: len(kept)] = kept
    return (bits << torch.arange(8, device=bits.device)).sum(dim=1).to(torch.uint8)


def from_mask(mask: Tensor) -> Tensor:
    """The bits of `mask`, bool, eight a byte."""
    return (mask.unsqueeze(1) >> torch.arange(8, device=mask.device) & 1).flatten().bool()


def runs(code_rows: int) -> int:
    """How many runs of 256 rows `code_rows` are, the last one of what is left."""
    return -(-code_rows // RUN)


def _mask_bytes(code_rows: int, columns: int) -> int:
    return -(-code_rows * columns // 8)


def _row_bytes(code_rows: int, columns: int, blocks: int, block: int) -> int:
    return blocks + runs(code_rows) * (columns // block) * torch.uint16.itemsize
