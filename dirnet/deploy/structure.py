"""What an ExecuTorch program is made of, read from its flatbuffer without ExecuTorch, every index checked.

ExecuTorch trusts a program's offsets and indices and crashes on some wrong ones. What passes here holds together; what
a delegate makes of its own part is its own affair.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirnet.deploy.flatbuffer import Damage, Schema, read
from dirnet.deploy.library import executorch_folder
from dirnet.errors import UserError

Table = dict[str, Any]
BYTES = {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 11: 1, 27: 2, 28: 4, 29: 8}  # of one value, by scalar type


@dataclass(frozen=True)
class Structure:
    """Names of the methods, of the operators that they call (`dirnet::rnn_layer.out`) and of their delegates."""

    methods: list[str]
    operators: set[str]
    backends: set[str]


def read_structure(content: bytes, path: str | Path) -> Structure:
    """The structure of the program `content`; a `UserError` names `path` and what does not hold together in it."""
    again = "copy or export it again"
    if content[4:6] != b"ET":
        raise UserError(f"{path} is not an ExecuTorch program (no ET.. at byte 4); {again}")
    base = 0
    if content[8:12] == b"eh00":  # extended header: length, program size, where segments start, their size
        program, base = (int.from_bytes(content[at : at + 8], "little") for at in (16, 24))
        segments = int.from_bytes(content[32:40], "little") if content[12:13] >= b"\x20" else 0
        expected = base + segments if base else program
        if len(content) < expected:
            raise UserError(f"{path} has {len(content)} bytes, expected {expected}: truncated; {again}")
    try:
        program = read(content, _schema(), "Program")
        for plan in program.get("execution_plan", []):
            _check_plan(plan, program)
        _check_segments(program, len(content) - base)
    except Damage as damage:
        raise UserError(f"{path} is damaged: {damage}; {again}") from None
    plans = program.get("execution_plan", [])
    operators = [operator for plan in plans for operator in plan.get("operators", [])]
    return Structure(
        [plan.get("name", "") for plan in plans],
        {".".join(filter(None, (o.get("name"), o.get("overload")))) for o in operators},
        {delegate.get("id", "") for plan in plans for delegate in plan.get("delegates", [])},
    )


@functools.lru_cache
def _schema() -> Schema:
    """That of the installed ExecuTorch, whose wheel brings it along."""
    folder = executorch_folder() / "exir/_serialize"
    names = ("scalar_type.fbs", "program.fbs")
    return Schema.parse("".join((folder / name).read_text(encoding="utf-8") for name in names))


def _check(where: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise Damage(f"{where} is {index}, but there are {count}")


def _check_segments(program: Table, room: int) -> None:
    segments = program.get("segments", [])
    for n, segment in enumerate(segments):
        end = segment.get("offset", 0) + segment.get("size", 0)
        if end > room:
            raise Damage(f"segment {n} ends at byte {end} of {room}")
    for data in program.get("named_data", []):
        _check(f"the segment of {data.get('key', '')}", data.get("segment_index", 0), len(segments))


def _check_plan(plan: Table, program: Table) -> None:
    """Every index in a method, and the places of its tensors."""
    name, values = plan.get("name", ""), plan.get("values", [])
    constants = _constant_room(program)
    for n, value in enumerate(values):
        kind, content = value.get("val", ("Null", {}))
        where = f"value {n} of {name}"
        if kind == "Tensor":
            _check_tensor(where, content, constants, plan.get("non_const_buffer_sizes", []))
        elif kind in ("IntList", "TensorList", "OptionalTensorList"):  # their items are values of the method
            for item in content.get("items", []):
                if kind != "OptionalTensorList" or item != -1:
                    _check(f"{where}: an item", item, len(values))
    for index in (*plan.get("inputs", []), *plan.get("outputs", [])):
        _check(f"an input or output of {name}", index, len(values))
    for what, index, count in _calls(plan):
        _check(f"{what} of {name}", index, count)
    for delegate in plan.get("delegates", []):
        processed = delegate.get("processed", {})
        held = program.get("segments" if processed.get("location", 0) else "backend_delegate_data", [])
        _check(f"the data of a delegate of {name}", processed.get("index", 0), len(held))


def _calls(plan: Table) -> Iterator[tuple[str, int, int]]:
    """What an instruction refers to: description, index, how many there are."""
    values = len(plan.get("values", []))
    for chain in plan.get("chains", []):
        instructions = chain.get("instructions", [])
        for instruction in instructions:
            kind, call = instruction.get("instr_args", ("nothing", {}))
            for argument in call.get("args", []):
                yield "an argument", argument, values
            if kind == "KernelCall":
                yield "an operator", call.get("op_index", 0), len(plan.get("operators", []))
            elif kind == "DelegateCall":
                yield "a delegate", call.get("delegate_index", 0), len(plan.get("delegates", []))
            elif kind == "JumpFalseCall":
                yield "a condition", call.get("cond_value_index", 0), values
                yield "a jump", call.get("destination_instruction", 0), len(instructions) + 1
            else:  # MoveCall, FreeCall: nothing but values
                for index in call.values():
                    yield "a value", index, values


def _constant_room(program: Table) -> list[int]:
    """Bytes from the start of each constant buffer to the end of what holds it."""
    if buffers := program.get("constant_buffer"):
        return [len(buffer.get("storage", b"")) for buffer in buffers]
    constants = program.get("constant_segment", {})
    segments, index = program.get("segments", []), constants.get("segment_index", 0)
    offsets = constants.get("offsets", [])
    if offsets:
        _check("the segment of the constants", index, len(segments))
    return [segments[index].get("size", 0) - offset for offset in offsets]


def _check_tensor(where: str, tensor: Table, constants: list[int], planned: list[int]) -> None:
    sizes, order = tensor.get("sizes", []), tensor.get("dim_order", b"")
    if min(sizes, default=0) < 0 or sorted(order) != list(range(len(sizes))):
        raise Damage(f"{where} has the sizes {sizes} in the order {list(order)}")
    if tensor.get("scalar_type", 0) not in BYTES:
        raise Damage(f"{where} has the unknown scalar type {tensor['scalar_type']}")
    needed, buffer = math.prod(sizes) * BYTES[tensor.get("scalar_type", 0)], tensor.get("data_buffer_idx", 0)
    room = needed
    if buffer:
        _check(f"{where}: its constant", buffer, len(constants))
        room = constants[buffer]
    elif place := tensor.get("allocation_info"):
        _check(f"{where}: its memory", place.get("memory_id", 0), len(planned))
        offset = place.get("memory_offset_low", 0) + (place.get("memory_offset_high", 0) << 32)
        room = planned[place.get("memory_id", 0)] - offset
    if needed > room:
        raise Damage(f"{where} has {needed} bytes, but {room} belong to it")
