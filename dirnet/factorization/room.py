"""How many codes fit beside so many atoms: the size of the factors, whatever it is counted in.

A room is a function of the number of atoms p that never rises: for a budget of parameters it is `params - N p`. Bytes
with their indices and seconds of running time are other such functions, which the caller brings. It may exceed `p M`.
"""

from __future__ import annotations

from collections.abc import Callable

Room = Callable[[int], int]


def of_params(rows: int, params: int, block: int = 1) -> Room:
    """What `N * p + nnz(Z) <= params` leaves for codes, in whole blocks; 0 where D alone takes it all."""
    return lambda atoms: max(params - rows * atoms, 0) // block * block


def fixed(nonzeros: int) -> Room:
    """So many codes beside any number of atoms."""
    return lambda atoms: nonzeros


def widest(columns: int, room: Room, block: int = 1) -> int:
    """The most atoms, of 0 ... M = `columns`, beside which a block still fits."""
    low, high = 0, columns
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if room(middle) >= block else (low, middle - 1)
    return low


def fewest(columns: int, room: Room, block: int = 1) -> int:
    """The fewest atoms that can use the room up; with fewer even dense codes would leave some."""
    low, high = 1, max(widest(columns, room, block), 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if room(middle) <= middle * columns else (middle + 1, high)
    return low
