"""What tests of several modules of speech use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


@pytest.fixture(scope="session")
def edits() -> Callable[[Sequence, Sequence], int]:
    """The least number of edits between two sequences, by the textbook's recursion."""

    def distance(a: Sequence, b: Sequence) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            diagonal, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
        return row[-1]

    return distance
