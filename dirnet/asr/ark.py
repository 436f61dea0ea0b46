"""Kaldi archives: matrices in compressed `.ark` files, found through `.scp` files.

The only module that touches the Kaldi reader: `kaldiio` where it is installed, else `omniio`, which has the same calls.
"""

from __future__ import annotations

import contextlib
import copy
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from dirnet.asr.datadir import read_table
from dirnet.errors import UserError
from dirnet.files import atomic_write

try:
    import kaldiio as _kaldi
except ImportError:  # MIT-licensed stand-in, ESPnet's own choice since 202611
    from omniio import kaldi as _kaldi

SPEECH_FEATURE = 2  # Kaldi's kSpeechFeature: 8 bits per value, scaled per column
TWO_BYTE = 3  # Kaldi's kTwoByteAuto: 16 bits per value, for matrices too short for column percentiles
_SHORTEST_COLUMN = 9  # Kaldi's own limit between the two
# Of the reader, which asserts its input.
READER_ERRORS = (OSError, RuntimeError, ValueError, EOFError, AssertionError, struct.error)


class ArkWriter:
    """Writes `KEY MATRIX` entries to `ark` and `KEY ARK:OFFSET` lines to `scp`; made by `write_ark`."""

    def __init__(self, path: Path, ark: IO[bytes], scp: IO[str], compress: bool):
        self.path, self._ark, self._scp, self._compress = path, ark, scp, compress

    def write(self, key: str, matrix: np.ndarray) -> None:
        """Append `matrix` (T, n) float32 under `key`."""
        method = (SPEECH_FEATURE if len(matrix) >= _SHORTEST_COLUMN else TWO_BYTE) if self._compress else None
        offset = self._ark.tell() + len(key.encode()) + 1
        _kaldi.save_ark(self._ark, {key: np.asarray(matrix, np.float32)}, compression_method=method)
        self._scp.write(f"{key} {self.path}:{offset}\n")


@contextlib.contextmanager
def write_ark(ark: str | Path, scp: str | Path, compress: bool = True) -> Iterator[ArkWriter]:
    """Open `ark` and `scp` for writing; both appear, complete, when the block ends without an error.

    The scp names the archive by its absolute path, so that it can be read from any folder. `compress` keeps
    8 bits per value (16 for matrices under 9 frames), as Kaldi does for speech features.
    """
    path = Path(os.path.abspath(ark))
    with atomic_write(scp) as scp_stream, atomic_write(path, "wb") as ark_stream:
        yield ArkWriter(path, ark_stream, scp_stream, compress)


def read_scp(path: str | Path) -> dict[str, str]:
    """The lines `KEY ARK:OFFSET` of the file `path` as a mapping, in file order."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, expected an scp file; give the feats.scp in it")
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; make the features first")
    return read_table(path)


class Matrices(Mapping[str, np.ndarray]):
    """The matrices named by an scp file, read when asked for: `Matrices("feats.scp")["utt1"]` -> (T, n) float32."""

    def __init__(self, scp: str | Path):
        self._scp, self._entries = scp, read_scp(scp)

    def __getitem__(self, key: str) -> np.ndarray:
        location = self._entries[key]
        if location.endswith("|"):  # which the reader would run
            raise UserError(f"{self._scp}: {key!r} is a command, `{location}`; write its matrix to an archive")
        try:
            matrix = _kaldi.load_mat(location)
        except READER_ERRORS as error:
            why, archive = " ".join(str(error).split()) or "it ends too early", location.rpartition(":")[0] or location
            if isinstance(error, FileNotFoundError):  # as of words, where a text file was given
                raise UserError(f"{self._scp}: {key!r} cannot be read, there is no file {archive}; give a feats.scp, "
                                "or make that file again") from None  # fmt: skip
            raise UserError(
                f"{self._scp}: {key!r} cannot be read from {location} ({why}); delete {archive} and make it again"
            ) from None
        if getattr(matrix, "ndim", 0) != 2:  # a vector, or the rate and samples of audio
            raise UserError(f"{self._scp}: {key!r} in {location} is no matrix; give the scp file of matrices")
        return matrix.astype(np.float32, copy=False)

    def only(self, keys: Iterable[str]) -> Matrices:
        """The matrices of `keys` alone, in their order, still on the disk."""
        some = copy.copy(self)
        some._entries = {key: self._entries[key] for key in keys}
        return some

    def check_archives(self) -> None:
        """Read the last matrix of every archive: one that is missing or cut short is a `UserError`."""
        last: dict[str, tuple[int, str]] = {}
        for key, location in self._entries.items():
            archive, _, offset = location.rpartition(":")
            last[archive] = max(last.get(archive, (-1, "")), (int(offset) if offset.isdigit() else 0, key))
        for _, key in last.values():
            self[key]

    def __contains__(self, key: object) -> bool:
        return key in self._entries  # without reading it, as Mapping would

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
