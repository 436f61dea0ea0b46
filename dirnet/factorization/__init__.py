"""Mathematics only: a matrix in, its factors out. No network, no file.

Everywhere `W` is an (N, M) matrix whose M columns share a dictionary `D` (N, p) of atoms, of unit norm while a solver
works, with sparse codes `Z` (p, M): `W ~ D Z`. For an LSTM `W = [W_h^T, W_x^T]`: every column is what one gate of one
unit reads from the state.
"""

from __future__ import annotations

from dirnet.factorization.factors import Factors, relative_error

__all__ = ["Factors", "relative_error"]
