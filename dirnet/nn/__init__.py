"""The compressed layers, drop-ins for torch's, and the acoustic model that is made of either."""

from __future__ import annotations

from dirnet.nn.cells import DirNetGRUCell, DirNetLSTMCell, DirNetRNNCell
from dirnet.nn.recurrent import DirNetGRU, DirNetLSTM, DirNetRNN

__all__ = ["DirNetGRU", "DirNetGRUCell", "DirNetLSTM", "DirNetLSTMCell", "DirNetRNN", "DirNetRNNCell"]
