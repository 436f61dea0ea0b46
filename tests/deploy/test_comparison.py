from pathlib import Path

import numpy as np
import pytest

from dirnet.deploy import comparison
from dirnet.deploy.timing import Timing


def timing(engine, dtype, chunk, us, cache="hot", size=None):
    """Three calls of a median of `us` microseconds per frame; the outlier must not count."""
    return Timing(engine, chunk, 10.0, np.array([us, us, 90 * us]) * chunk / 1e6, "cpu", 1.0, dtype, cache, size)


DENSE = [
    timing("a", "fp32", 1, 1200), timing("b", "fp32", 1, 2000), timing("b", "fp32", 8, 600),
    timing("b", "fp32", 32, 400), timing("a", "int8", 1, 200), timing("c", "int8", 16, 130),
    timing("a", "fp32", 1, 5000, "cold"), timing("a", "int8", 1, 900, "cold"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("chunk", "cache", "fp32", "int8"),
    [(1, "hot", "a", 12), (7, "hot", "a", 12), (8, "hot", "b", 6), (16, "hot", "b", 6), (32, "hot", "b", 4),
     (64, "cold", "a", 50)],
)  # fmt: skip
def test_the_fastest_engine_with_chunks_no_longer_than_ones_own(chunk, cache, fp32, int8):
    found = comparison.speed_ups(timing("own", "fp32", chunk, 100, cache), DENSE)
    assert found["speed_up"] == pytest.approx(int8) and found["against"].startswith(f"{fp32} fp32, chunk ")
    expected = {"hot": 2 if chunk < 16 else 1.3, "cold": 9}[cache]
    assert found["speed_up_int8"] == pytest.approx(expected) and " int8, chunk " in found["against_int8"]
    assert found["against"].endswith("cold cache") == (cache == "cold")


def test_without_an_eligible_engine_there_is_no_speed_up():
    assert comparison.speed_ups(timing("own", "fp32", 4, 100), DENSE[2:4]) == {}
    assert "speed_up_int8" not in comparison.speed_ups(timing("own", "fp32", 4, 100), DENSE[:2])


def test_a_pure_read_is_of_the_same_bytes_and_caches():
    reads = {(500, "hot"): timing("pure read", "", 1, 10, size=500),
             (500, "cold"): timing("pure read", "", 1, 80, "cold", 500)}  # fmt: skip
    own = timing("own", "fp32", 4, 15, size=500)
    assert comparison.nearness(own, reads) == pytest.approx({"read_us": 10, "read_ratio": 1.5})
    assert comparison.nearness(timing("own", "fp32", 4, 40, "cold", 500), reads)["read_ratio"] == pytest.approx(0.5)
    for other in (timing("own", "fp32", 4, 15, size=501), timing("own", "fp32", 4, 15)):
        assert comparison.nearness(other, reads) == {}


def test_models_are_named_by_what_tells_them_apart():
    row = comparison.row(timing("own", "fp32", 16, 7.25), DENSE, {})
    results = {Path("/a/long/way/exp") / name: row | {"engines": [row]} for name in ("smbr", "deeper/dirnet_7.9x")}
    names = [line.split()[0] for line in comparison.models_table(results).splitlines()[1:3]]
    assert names == ["smbr", "deeper/dirnet_7.9x"]
    assert [line.split()[0] for line in comparison.engines_table(results).splitlines()[1:]] == names


def test_the_terminal_tables_are_aligned():
    rows = [comparison.row(t, DENSE, {}) for t in (*DENSE, timing("own", "int8", 16, 7.25, size=1_438_446))]
    results = {Path("exp/a_folder_with_a_name_that_is_far_too_long"): rows[-1] | {"engines": rows}}
    hot, cold = comparison.engines_table(results).split("\n\n")
    assert len({len(line) for line in hot.splitlines()}) == 1 and "T=32" in hot and len(hot.splitlines()) == 6
    assert hot.splitlines()[2].split()[-5:] == ["-", "2000.0", "600.0", "-", "400.0"]
    assert hot.splitlines()[-1].split()[-5:] == ["1438", "-", "-", "7.2", "-"] and len(cold.splitlines()) == 3
    header, line, *legend = comparison.models_table(results).splitlines()
    assert legend[0].startswith("RTF: of the median call; speed-up, int8: over") and len(legend) == 2
    assert len(header) == len(line) and line.split()[-3:] == ["82.76x", "17.93x", "-"]
