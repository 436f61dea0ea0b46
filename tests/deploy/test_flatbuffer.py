"""The reader of flatbuffers against flatc, and on damaged ones."""

from __future__ import annotations

import json
import random
import shutil
import subprocess

import pytest

from dirnet.deploy.flatbuffer import Damage, Schema, read
from dirnet.deploy.library import executorch_folder

SCHEMA = """
enum Colour : ushort { RED = 0, BLUE = 700 }  // a comment: int;
table Leaf { name: string (required); weight: double = 0.5; }
table Nothing {}
union Any { Leaf, Nothing }
table Tree {
  leaves: [Leaf]; colours: [Colour]; sizes: [long]; raw: [ubyte] (force_align: 16);
  flag: bool; what: Any; first: Leaf; count: uint; names: [string];
}
root_type Tree;
"""
VALUES = {
    "leaves": [{"name": "a", "weight": 0.25}, {"name": "", "weight": -1.5}, {"name": "größer", "weight": 2.0}],
    "colours": [700, 0], "sizes": [-(2**62), 5], "raw": [0, 255, 7], "flag": True, "what_type": "Leaf",
    "what": {"name": "inside", "weight": 3.0}, "count": 4000000000, "names": ["x", "yy"],
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The values as flatc, flatbuffers' own compiler, writes them."""
    folder = tmp_path_factory.mktemp("flat")
    (folder / "tree.fbs").write_text(SCHEMA)
    (folder / "tree.json").write_text(json.dumps(VALUES))
    flatc = shutil.which("flatc") or executorch_folder() / "data/bin/flatc"
    subprocess.run([flatc, "--binary", "-o", folder, folder / "tree.fbs", folder / "tree.json"], check=True)
    return (folder / "tree.bin").read_bytes()


def test_what_flatc_wrote_is_read(tree):
    expected = {name: value for name, value in VALUES.items() if name != "what_type"}
    expected |= {"raw": bytes(VALUES["raw"]), "what": ("Leaf", VALUES["what"])}
    found = read(tree, Schema.parse(SCHEMA), "Tree")
    assert found == expected and "first" not in found


def test_an_older_schema_reads_what_it_knows(tree):
    older = Schema.parse("table Leaf { name: string; } table Tree { leaves: [Leaf]; }")
    assert read(tree, older, "Tree") == {"leaves": [{"name": leaf["name"]} for leaf in VALUES["leaves"]]}


def test_damage_is_damage_and_nothing_else(tree):
    schema, damaged = Schema.parse(SCHEMA), 0
    for seed in range(1500):
        draw = random.Random(seed)
        content = bytearray(tree[: draw.choice([len(tree), draw.randrange(len(tree))])])
        for _ in range(draw.randrange(3)):
            if content:
                content[draw.randrange(len(content))] = draw.choice([0, 1, 127, 255, draw.randrange(256)])
        try:
            read(bytes(content), schema, "Tree")
        except Damage as damage:
            damaged += 1
            assert str(damage).startswith("Tree")
    assert damaged > 700


def test_a_small_buffer_cannot_ask_for_endless_work():
    """Thirty levels of vectors, each of eight times the same table: 8^30 of them if every path was followed."""
    levels = 30
    tables = [f"table L{n} {{ next: [L{n + 1}]; }}" for n in range(levels)]
    schema = Schema.parse("\n".join([*tables, f"table L{levels} {{}}"]))

    def number(value, size=4):
        return value.to_bytes(size, "little")

    content = number(12) + number(6, 2) + number(8, 2) + number(4, 4)  # the root's offset; the vtable of all tables
    for _ in range(levels + 1):
        table = len(content)
        content += number(table - 4) + number(4) + number(8)  # the table, its field, the length of the vector
        content += b"".join(number(table + 12 + 32 - at) for at in range(table + 12, table + 44, 4))
    with pytest.raises(Damage):
        read(content, schema, "L0")
