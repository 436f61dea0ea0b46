"""DirNet: compress recurrent speech models by dictionary learning, from Kaldi data to a phone-ready program."""

from __future__ import annotations

import sys
from pathlib import Path

from dirnet.errors import one_line_interrupts

__version__ = "0.3.1"
__all__ = ["__version__", "compress", "load", "reconstruct", "save"]

_program = Path(sys.argv[0] if sys.argv else "").resolve()
if sys.argv[:1] == ["-m"] or _program.parent.parent == Path(__file__).resolve().parent.parent:
    one_line_interrupts()  # `python -m dirnet.X` or utils/X.py is starting; what it imports takes seconds


def __getattr__(name: str):
    if name == "compress":  # imported at first use: `import dirnet` costs nothing
        from dirnet.compression.compressor import compress

        return compress
    if name == "reconstruct":
        from dirnet.compression.reconstruction import reconstruct

        return reconstruct
    if name in ("load", "save"):
        from dirnet.compression import folder

        return getattr(folder, name)
    raise AttributeError(f"module 'dirnet' has no attribute {name!r}")
