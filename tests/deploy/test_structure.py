"""What a program is made of, and what does not hold together in it."""

from __future__ import annotations

import copy
import random

import pytest

from dirnet.deploy import flatbuffer, structure
from dirnet.deploy.metadata import CONSTANTS
from dirnet.deploy.structure import read_structure
from dirnet.errors import UserError


@pytest.fixture(scope="module")
def contents(exports):
    return {name: (exports / name / "encoder.pte").read_bytes() for name in ("compressed", "dense")}


def test_methods_operators_and_delegates(contents):
    ours, stock = (read_structure(content, "a.pte") for content in contents.values())
    assert set(ours.methods) == set(stock.methods) >= {"forward", *CONSTANTS}
    assert ours.operators == {"dirnet::splice.out", "dirnet::rnn_layer.out"} and stock.operators == set()
    assert ours.backends == stock.backends == {"XnnpackBackend"}


@pytest.mark.parametrize("name", ["compressed", "dense"])
def test_damage_is_a_one_line_error_or_leaves_a_structure(contents, name):
    content, found = contents[name], 0
    head = int.from_bytes(content[16:24], "little")
    for seed in range(200):
        draw = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 3])):
            damaged[draw.randrange(head)] ^= 1 << draw.randrange(8)
        try:
            read_structure(bytes(damaged), "a.pte")
        except UserError as error:
            found += 1
            assert str(error).startswith("a.pte ") and "\n" not in str(error)
    assert found > 60  # names, sizes of windows and the like are no structure


def plan_of(program, name="forward"):
    return next(plan for plan in program["execution_plan"] if plan["name"] == name)


def call_of(program):
    return plan_of(program)["chains"][0]["instructions"][0]["instr_args"][1]


def tensor_of(program, key):
    return next(value["val"][1] for value in plan_of(program)["values"] if key in value["val"][1])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: plan_of(p)["inputs"].append(5000), "an input or output of forward is 5000, but there are"),
        (lambda p: call_of(p).update(op_index=2), "an operator of forward is 2, but there are 2"),
        (lambda p: call_of(p)["args"].append(-1), "an argument of forward is -1"),
        (lambda p: tensor_of(p, "data_buffer_idx").update(data_buffer_idx=999), "its constant is 999"),
        (lambda p: tensor_of(p, "data_buffer_idx").update(sizes=[10**6]), "has 4000000 bytes, but"),
        (lambda p: tensor_of(p, "sizes").update(sizes=[-1]), r"has the sizes \[-1\]"),
        (lambda p: tensor_of(p, "sizes").update(dim_order=b"\x07"), r"in the order \[7\]"),
        (lambda p: tensor_of(p, "sizes").update(scalar_type=77), "unknown scalar type 77"),
        (lambda p: tensor_of(p, "allocation_info")["allocation_info"].update(memory_id=4), "its memory is 4"),
        (lambda p: tensor_of(p, "allocation_info")["allocation_info"].update(memory_offset_low=2**31), "belong to it"),
        (lambda p: p["segments"][0].update(size=2**40), "segment 0 ends at byte"),
        (lambda p: p["constant_segment"].update(segment_index=7), "the segment of the constants is 7"),
        (lambda p: plan_of(p).update(delegates=[{"processed": {"location": 1, "index": 9}}]), "a delegate of forward"),
    ],
)
def test_every_index_is_checked(contents, monkeypatch, damage, message):
    program = flatbuffer.read(contents["compressed"], structure._schema(), "Program")
    read_structure(contents["compressed"], "a.pte")
    damaged = copy.deepcopy(program)
    damage(damaged)
    monkeypatch.setattr(structure, "read", lambda *_: damaged)
    with pytest.raises(UserError, match=f"^a.pte is damaged: .*{message}.*; copy or export it again$"):
        read_structure(contents["compressed"], "a.pte")
