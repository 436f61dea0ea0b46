import numpy as np
import pytest

from dirnet.deploy import engines, reading
from dirnet.errors import UserError


@pytest.mark.parametrize("size", [1, 4, 64, 508, 512, 516, 4096, 100_003])
def test_the_sum_is_that_of_all_words(size):
    reader = reading.Reader(size)
    reader.compute()
    assert reader.values.nbytes == max(size // 4 * 4, 4)
    assert reader.total == int(reader.values.sum(dtype=np.uint64)) % 2**32
    reader.values[-1] += 1  # the last word counts
    before = reader.total
    reader.compute()
    assert reader.total == (before + 1) % 2**32


def test_it_is_timed_like_an_engine():
    engine = engines.reader_engine(1000, 10.0)
    elapsed, wall = engine.call(lambda: 0.0)
    assert (engine.weight_bytes, engine.chunk, elapsed) == (1000, 1, 0) and wall > 0
    assert engine.runner.total == int(engine.runner.values.sum(dtype=np.uint64)) % 2**32


def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UserError, match="false cannot build"):
        reading.Reader(4)
    assert not list(tmp_path.rglob("*.so"))
