"""Machine code does what the Python that it was made of does, wherever it can be kept."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from dirnet.factorization import coordinate_descent, dictionary
from dirnet.factorization.compiled import compiled

CLOSE = {np.float32: {"rtol": 1e-4, "atol": 1e-6}, np.float64: {"rtol": 1e-10, "atol": 1e-12}}


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_are_those_of_the_loop(dtype, block):
    rng = np.random.default_rng(0)
    atoms, columns = rng.normal(size=(10, 7)).astype(dtype), rng.normal(size=(10, 12)).astype(dtype)
    codes = np.where(rng.random((12, 7)) < 0.3, rng.normal(size=(12, 7)), 0).astype(dtype)
    pulls, bounds = columns.T @ atoms, np.full(7, 1.5 * block, dtype)
    results = []
    for columns_of in (coordinate_descent._columns, coordinate_descent._columns.__wrapped__):
        moved = codes.copy()
        columns_of(atoms.T @ atoms, pulls.copy(), moved, bounds, 3, 0.0, block)
        results.append(moved)
    assert results[0].dtype == dtype and 0 < np.count_nonzero(results[0]) < results[0].size
    np.testing.assert_allclose(*results, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_atoms_are_those_of_the_loop(dtype):
    rng = np.random.default_rng(0)
    codes, targets = rng.normal(size=(5, 30)).astype(dtype), rng.normal(size=(5, 8)).astype(dtype)
    dead, results = np.array([False, True, False, False, False]), []
    for move in (dictionary._atoms, dictionary._atoms.__wrapped__):
        rows = np.eye(5, 8, dtype=dtype)
        move(rows, targets.copy(), codes @ codes.T, dead)
        results.append(rows)
    np.testing.assert_allclose(*results, **CLOSE[dtype])
    assert np.array_equal(results[0][1], np.eye(5, 8)[1]) and not np.allclose(results[0][0], np.eye(5, 8)[0])


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch):
    asked, njit = [], numba.njit

    def without_a_folder(*functions, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'double': no locator available for file 'x.py'")
        return njit(*functions, **options)

    monkeypatch.setattr(numba, "njit", without_a_folder)

    @compiled
    def double(values):
        for at in range(len(values)):
            values[at] *= 2

    values = np.arange(3.0)
    double(values)
    double(values)
    assert values.tolist() == [0, 4, 8] and asked == [True, False]
