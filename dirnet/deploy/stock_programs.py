"""Dense models as stock XNNPACK programs for comparisons, kept in the cache folder: an export takes long.

Stock operators unroll the recurrence, so the export grows with the chunk: of a 5x500 LSTM it takes a quarter of a
minute for one output per call, and minutes for 16.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from pathlib import Path

from dirnet.deploy import library, lowering, streaming, xnnpack_int8
from dirnet.deploy.export import constants
from dirnet.deploy.lowering import lower
from dirnet.deploy.program import Program
from dirnet.deploy.streaming import StockModel
from dirnet.deploy.xnnpack_int8 import Int8StockModel
from dirnet.errors import UserError
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel
from dirnet.provenance import package_version

KEPT = 12  # programs in the cache; older ones go


def stock_program(model: AcousticModel, dtype: str, chunk: int) -> Program:
    """The program of a dense `model` with `dtype` (fp32, int8) weights, `chunk` outputs per call; not parity-checked.

    Exported once per content of the model and version of the exporters; said on standard error, because it takes long.
    """
    path = library.cache_folder() / f"dense-{_key(model, dtype, chunk)}.pte"
    try:
        return Program(path)
    except UserError:  # absent, or damaged: write it again
        pass
    calls = f"{chunk} output{'s' if chunk > 1 else ''} a call"
    print(f"export: dense {dtype} program for XNNPACK, {calls}, kept for next time ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    stock = (Int8StockModel if dtype == "int8" else StockModel)(model, chunk)
    told = {"dtype": "int8" if dtype == "int8" else "float32"}
    content = lower(stock, constants(model, stock, chunk, "") | told).content
    digest = {"sha256": hashlib.sha256(content).hexdigest()}
    with atomic_write(path, "wb") as program, atomic_write(path.with_suffix(".json")) as beside:
        program.write(content)
        beside.write(json.dumps(digest) + "\n")
    print(f"export: took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    _prune(path.parent)
    return Program(path)


def _key(model: AcousticModel, dtype: str, chunk: int) -> str:
    """A sha256 of everything that the program depends on."""
    versions = [package_version(name) for name in ("torch", "executorch", "torchao")]
    key = hashlib.sha256(json.dumps([dtype, chunk, versions, model.config.to_mapping()]).encode())
    for module in (streaming, lowering, xnnpack_int8):
        key.update(Path(module.__file__).read_bytes())
    for name, tensor in sorted(storage.stored_tensors(model).items()):
        key.update(name.encode())
        key.update(tensor.numpy().tobytes())
    return key.hexdigest()[:16]


def _prune(folder: Path) -> None:
    """Drop all but the KEPT newest programs, as far as another process is not at it."""
    with contextlib.suppress(FileNotFoundError):
        programs = sorted(folder.glob("dense-*.pte"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in programs[KEPT:]:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
