"""DirNet: compress recurrent speech models by dictionary learning, from Kaldi data to a phone-ready program."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "compress"]


def __getattr__(name: str):
    if name == "compress":  # imported at first use: `import dirnet` costs nothing
        from dirnet.compression.compressor import compress

        return compress
    raise AttributeError(f"module 'dirnet' has no attribute {name!r}")
