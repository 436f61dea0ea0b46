"""A coded matrix as the tensors that are stored: values in their dtype, scales, and where the kept codes stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dirnet.errors import UserError
from dirnet.nn.indices import RUN, from_mask, is_masked, runs, to_mask
from dirnet.nn.quantised import dequantise, quantise

if TYPE_CHECKING:
    from dirnet.nn.coded import CodedMatrix

MARKS = ("mask", "rows", "code_scales")  # of these tensors a state dict of a coded matrix has none


def to_tensors(matrix: CodedMatrix) -> dict[str, Tensor]:
    """`dictionary`, `codes`; `rows` and `counts`, or `mask`, if Z is sparse; `offsets` of shifted atoms.

    Blocks go by runs of 256 rows of Z, in a run column by column: `counts` (runs, M / block) uint16 tells how many each
    block column has in a run, `rows` (uint8) their rows in it, ascending in a column. Single codes, where that takes
    fewer bytes, go row by row: `mask` (p M / 8) uint8 has a bit for every place, the lowest of a byte first. `offsets`
    (int8) go with the blocks. In int8 also bfloat16 scales: `dictionary_scales` (p,) of the atoms, `code_scales` (p,)
    of the rows of Z.
    """
    tensors, offsets = values_of(matrix), matrix.offsets
    if matrix.index is None:
        return tensors if offsets is None else tensors | {"offsets": offsets}
    index, width = matrix.index.long(), matrix.columns // matrix.block
    if is_masked(matrix.code_rows, matrix.columns, matrix.blocks, matrix.block):
        kept = torch.zeros(matrix.code_rows * width, dtype=torch.bool, device=index.device)
        kept[index] = True
        return tensors | {"mask": to_mask(kept)} | ({} if offsets is None else {"offsets": offsets})
    row, column = index // width, index % width
    cell = row // RUN * width + column  # of (runs, M / block)
    order = torch.argsort(cell * RUN + row % RUN)
    tensors |= {"codes": tensors["codes"][order], "rows": (row[order] % RUN).to(torch.uint8)}
    shape = runs(matrix.code_rows), width
    tensors["counts"] = torch.bincount(cell, minlength=shape[0] * width).view(shape).to(torch.uint16)
    return tensors if offsets is None else tensors | {"offsets": offsets[order]}


def take_tensors(matrix: CodedMatrix, tensors: dict[str, Tensor]) -> None:
    """Give `matrix` what `to_tensors` told; another shape or dtype, or an impossible index is a `UserError`.

    The indices of versions before 0.3 are read, too.
    """
    tensors = {name: tensor.to(matrix.codes.device) for name, tensor in tensors.items()}
    _check_shapes(tensors, to_tensors(matrix), matrix)
    codes, offsets = tensors["codes"], tensors.get("offsets")
    if offsets is not None and bool((offsets.long().abs() > matrix.shifts.reach).any()):
        raise UserError(f"tensor offsets moves an atom by more than {matrix.shifts.reach} rows")
    row = torch.arange(matrix.code_rows, device=codes.device)
    if matrix.index is not None:
        places, order = _places(tensors, matrix).sort()
        matrix.index.copy_(places)
        tensors["codes"] = codes = codes[order]
        row = places // (matrix.columns // matrix.block)
        offsets = None if offsets is None else offsets[order]
    dictionary = tensors.get("dictionary")
    if matrix.dtype == "int8":
        codes = dequantise(codes, tensors["code_scales"][row], 1)
        dictionary = None if dictionary is None else dequantise(dictionary, tensors["dictionary_scales"], 0)
    with torch.no_grad():
        matrix.codes.copy_(codes)
        if dictionary is not None:
            matrix.dictionary.copy_(dictionary)
        if offsets is not None:
            matrix.offsets.copy_(offsets)
    if matrix.dtype == "int8":  # a scale is that of the largest value, which is +-127
        again = values_of(matrix)
        for name in (name for name in again if not torch.equal(again[name], tensors[name])):
            raise UserError(f"tensor {name} is not what rounding to int8 gives; write the model with this version")


def restore_state(matrix: CodedMatrix, state: dict[str, Any], prefix: str = "") -> None:
    """Where `state`, a state dict, tells `matrix` by its stored tensors put what a state dict has of it, in place.

    An `index` beside them is left over: ESPnet fills a model's own state up with what an `--init_param` file has.
    What `take_tensors` refuses is a `UserError`.
    """
    if not any(f"{prefix}{mark}" in state for mark in MARKS):
        return
    stored = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    stored.pop("index", None)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # a new one begins with random values
        whole = type(matrix)(
            matrix.rows, matrix.columns, matrix.atoms, matrix.blocks, matrix.block, matrix.dtype, matrix.shifts
        )
    if "codes" in stored and stored["codes"].is_floating_point():
        whole.to(stored["codes"].dtype)  # of a model in float64
    take_tensors(whole, stored)
    state.update({f"{prefix}{name}": tensor for name, tensor in whole.state_dict().items()})


def values_of(matrix: CodedMatrix) -> dict[str, Tensor]:
    """`dictionary` and `codes` in the order of `matrix.codes`, in int8 with their scales."""
    tensors = {} if matrix.dictionary is None else {"dictionary": matrix.dictionary.detach()}
    if matrix.dtype == "float32":
        return tensors | {"codes": matrix.codes.detach()}
    if matrix.dictionary is not None:
        tensors["dictionary"], tensors["dictionary_scales"] = quantise(tensors["dictionary"], 0)
    codes, scales = quantise(matrix.latent_codes().detach(), 1)
    kept = codes if matrix.index is None else codes.view(-1, matrix.block)[matrix.index.long()]
    return tensors | {"codes": kept, "code_scales": scales}


def _check_shapes(tensors: dict[str, Tensor], expected: dict[str, Tensor], matrix: CodedMatrix) -> None:
    if matrix.index is not None:  # of whatever version
        expected = {name: tensor for name, tensor in expected.items() if name not in ("mask", "rows", "counts")}
        expected |= _indices_like(tensors, matrix)
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise UserError(f"tensor {name} is {'missing' if name in expected else 'unexpected'}")
        if (tensors[name].shape, tensors[name].dtype) != (expected[name].shape, expected[name].dtype):
            found, wanted = ((list(t.shape), t.dtype) for t in (tensors[name], expected[name]))
            raise UserError(f"tensor {name} is {found}, expected {wanted}")


def _indices_like(tensors: dict[str, Tensor], matrix: CodedMatrix) -> dict[str, Tensor]:
    """Tensors of the shape and dtype of the indices of `matrix`, in the form that `tensors` have."""
    width, blocks, rows = matrix.columns // matrix.block, matrix.blocks, matrix.code_rows
    if "mask" in tensors:
        return {"mask": torch.empty(-(-rows * width // 8), dtype=torch.uint8)}
    if _counts_columns(tensors):
        counts, dtype = (width,), torch.uint8 if rows <= RUN else torch.uint16 if rows <= 65536 else torch.uint32
    else:
        counts, dtype = (runs(rows), width), torch.uint8
    return {"rows": torch.empty(blocks, dtype=dtype), "counts": torch.empty(counts, dtype=torch.uint16)}


def _counts_columns(tensors: dict[str, Tensor]) -> bool:
    """Whether blocks are counted by column alone, their rows in a type for all rows of Z: before version 0.3."""
    return "counts" in tensors and tensors["counts"].dim() == 1


def _places(tensors: dict[str, Tensor], matrix: CodedMatrix) -> Tensor:
    """The flat place in the (p, M / block) grid of every stored block, in the order of storage."""
    blocks, width = len(tensors["codes"]), matrix.columns // matrix.block
    if "mask" in tensors:
        name, places = "mask", from_mask(tensors["mask"]).nonzero().squeeze(1)
        if len(places) != blocks:
            raise UserError(f"tensor mask has {len(places)} bits, expected {blocks}")
    else:
        name, counts = "rows", tensors["counts"].long().flatten()
        if int(counts.sum()) != blocks:
            raise UserError(f"tensor counts adds up to {int(counts.sum())} blocks, expected {blocks}")
        cell = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        places = (cell // width * RUN + tensors["rows"].long()) * width + cell % width
    if len(places.unique()) < blocks or bool((places >= matrix.code_rows * width).any()):
        raise UserError(f"tensor {name} names a row twice or one beyond {matrix.code_rows - 1}")
    return places
