"""Flatbuffers read as their schema describes them, every offset checked before it is followed.

A table begins with the distance back to its vtable, which holds its own size, the table's, and where in the table each
field lies (0: absent). Strings and vectors begin with their length. (flatbuffers.dev, "FlatBuffer Internals")
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

SCALARS = {
    "bool": "B", "byte": "b", "ubyte": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "long": "q",
    "ulong": "Q", "float": "f", "double": "d", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
}  # fmt: skip


class Damage(Exception):
    """What is wrong, and where in the buffer."""


@dataclass(frozen=True)
class Schema:
    """Fields (name, type) of every table in order, members of every union, the integer type behind every enum."""

    tables: dict[str, list[tuple[str, str]]]
    unions: dict[str, list[str]]
    enums: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Schema:
        """From the text of `.fbs` files; a vector's type is written `[type`."""
        text = re.sub(r"//.*|\([^)]*\)", "", text)  # comments and attributes
        return cls(
            {name: re.findall(r"(\w+)\s*:\s*(\[?\w+)", body) for name, body in _blocks("table", text)},
            {name: re.findall(r"\w+", body) for name, body in _blocks("union", text)},
            dict(re.findall(r"enum (\w+)\s*:\s*(\w+)", text)),
        )

    def code(self, kind: str) -> str | None:
        """How `struct` names a number of that type; None for what is no number."""
        return SCALARS.get(self.enums.get(kind, kind))


def _blocks(keyword: str, text: str) -> list[tuple[str, str]]:
    return re.findall(keyword + r" (\w+)\s*\{(.*?)\}", text, re.DOTALL)


def read(content: bytes, schema: Schema, table: str) -> dict[str, Any]:
    """The root `table` of `content` as a dict of the fields that are there; anything out of place is a `Damage`.

    Tables are dicts, a union is (member, dict), vectors are lists (of bytes: bytes), strings str, enums numbers.
    """
    reader = _Reader(content, schema)
    return reader.table(table, reader.follow(0, table), table)


class _Reader:
    def __init__(self, content: bytes, schema: Schema):
        self._content, self._schema = content, schema
        self._left = len(content)  # things to read; more of them than bytes is the same things again and again

    def _inside(self, at: int, size: int, where: str) -> None:
        self._left -= 1
        if not 0 <= at <= at + size <= len(self._content) or self._left < 0:
            raise Damage(f"{where} leads to byte {at + size} of {len(self._content)}")

    def _numbers(self, code: str, at: int, count: int, where: str) -> list[Any]:
        self._inside(at, count * struct.calcsize(code), where)
        return list(struct.unpack_from(f"<{count}{code}", self._content, at))

    def _number(self, code: str, at: int, where: str) -> Any:
        return self._numbers(code, at, 1, where)[0]

    def follow(self, at: int, where: str) -> int:
        """Where the offset at `at` leads."""
        return at + self._number("I", at, where)

    def table(self, table: str, at: int, where: str) -> dict[str, Any]:
        """The table at `at`."""
        vtable = at - self._number("i", at, where)
        size, length = self._numbers("H", vtable, 2, where)
        slots = self._numbers("H", vtable + 4, max(size - 4, 0) // 2, where)
        self._inside(at, length, where)
        found: dict[str, Any] = {}
        for name, kind in self._schema.tables[table]:
            union = kind in self._schema.unions
            width = 2 if union else 1  # the type of a union is a field of its own before its value
            places, slots = slots[:width], slots[width:]
            if len(places) < width or not all(places):
                continue
            if max(places) >= length:
                raise Damage(f"{where}.{name} lies outside of its table")
            read = self._union if union else self._value
            found[name] = read(kind, *(at + place for place in places), f"{where}.{name}")
        return found

    def _union(self, union: str, kind_at: int, at: int, where: str) -> tuple[str, dict[str, Any]]:
        number, members = self._number("B", kind_at, where), self._schema.unions[union]
        if not 1 <= number <= len(members):
            raise Damage(f"{where} has the unknown type {number}")
        return members[number - 1], self.table(members[number - 1], self.follow(at, where), where)

    def _value(self, kind: str, at: int, where: str) -> Any:
        if code := self._schema.code(kind):
            return self._number(code, at, where)
        at = self.follow(at, where)
        if kind != "string" and not kind.startswith("["):
            return self.table(kind, at, where)
        count, at = self._number("I", at, where), at + 4
        if kind in ("string", "[ubyte"):
            self._inside(at, count, where)
            content = self._content[at : at + count]
            return _text(content, where) if kind == "string" else content
        kind = kind[1:]
        if code := self._schema.code(kind):
            return self._numbers(code, at, count, where)
        self._inside(at, 4 * count, where)
        return [self._value(kind, at + 4 * n, f"{where}[{n}]") for n in range(count)]


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Damage(f"{where} is not UTF-8 text") from None
