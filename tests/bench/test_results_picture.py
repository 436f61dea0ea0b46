"""The README's picture shows what the tables of RESULTS.md say."""

from __future__ import annotations

import pytest

from bench import results_picture
from bench.results_picture import Point, points_of
from dirnet.errors import UserError

TEXT = """
## Other

| method | bytes | PER |
|---|---:|---:|
| svd | 1 | 1.0 [0.5, 1.5] |

### Equal bytes

| method | bytes | PER before | PER |
|---|---:|---:|---:|
| dense | 7,334,056 | 9.28 [8.60, 9.98] | 9.32 [8.67, 10.01] |
| dirnet_int8 | 928,000 | 9.45 [8.78, 10.16] | 9.60 [8.95, 10.28] |

A word about it.

| method | bytes | PER before | PER |
|---|---:|---:|---:|
| dense | 7,334,056 | 9.28 [8.60, 9.98] | 9.32 [8.67, 10.01] |
| svd_int8 | 463,000 | 9.45 [8.78, 10.16] | 10.60 [9.95, 11.28] |

| model | T = 1 |
|---|---:|
| svd_int8 | 3.1 |
"""


def test_points_are_the_rows_of_one_section():
    dense = Point("dense", 7334056, 9.32, 8.67, 10.01)
    assert points_of(TEXT, "Equal bytes") == [
        dense, Point("dirnet", 928000, 9.6, 8.95, 10.28), dense, Point("svd", 463000, 10.6, 9.95, 11.28)
    ]  # fmt: skip
    with pytest.raises(UserError, match="section 'Speed' has no table"):
        points_of(TEXT, "Speed")


def test_the_picture_is_an_svg_with_every_method(tmp_path, program):
    (tmp_path / "RESULTS.md").write_text(TEXT)
    options = ("--results", tmp_path / "RESULTS.md", "--section", "Equal bytes", "--title", "A model")
    assert program(results_picture.main, *options, "--out", tmp_path / "a.svg")[0] == 0
    drawn = (tmp_path / "a.svg").read_text()
    names = ("A model", "DirNet", "SVD", "dense float32, 7.3 MB")
    assert drawn.startswith("<svg") and all(name in drawn for name in names)
