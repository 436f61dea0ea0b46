"""How the matrices of a layer are coded: the settings that layers, cells, models and files share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dirnet.factorization.shift import Shifts


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What all matrices of a layer have in common, whatever the sizes of their dictionaries and codes.

    block: consecutive gate rows that are kept or dropped together
    dtype: "float32", or "int8": as `CodedMatrix`, training is then quantisation-aware; biases stay float32
    shifts, shift_kind: reach and kind of the set Delta (`Shifts`) from which every code has its shift
    input_group: `own`, or `shared` where a single layer has one dictionary for both its matrices (`groups_of`)
    """

    block: int = 1
    dtype: str = "float32"
    shifts: int = 0
    shift_kind: str = "circular"
    input_group: str = "own"


class CodedLayer:
    """What a compressed layer or cell has beyond the dense one: its matrices, `groups`, all of one `coding`."""

    groups: nn.ModuleList
    coding: Coding

    block = property(lambda self: self.coding.block)
    dtype = property(lambda self: self.coding.dtype)
    shifts = property(lambda self: Shifts(self.coding.shifts, self.coding.shift_kind))
    input_group = property(lambda self: self.coding.input_group)

    @property
    def layout(self) -> list[list[int | None]]:
        """`[atoms, blocks]` of every group: with `coding` enough to build an empty copy of this layer."""
        return [group.layout for group in self.groups]
