import numpy as np
import torch

from dirnet.deploy import cold
from dirnet.deploy.timing import Engine


def test_the_buffer_is_larger_than_the_caches_and_every_line_of_it_is_written():
    eviction = cold.Eviction()
    assert eviction.buffer.nbytes >= 2 * cold.last_level_bytes() >= 64 << 20
    eviction.evict()
    eviction.evict()
    assert (eviction.buffer == 2).all()


def test_caches_are_read_from_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(cold, "_CACHES", tmp_path)
    assert cold.last_level_bytes() == 32 << 20
    for level, size in enumerate(("48K", "1024K", "96M", "odd")):
        (tmp_path / f"index{level}").mkdir()
        (tmp_path / f"index{level}/size").write_text(f"{size}\n")
    assert cold.last_level_bytes() == 96 << 20


def test_everything_is_evicted_before_every_timed_call():
    log = []

    class Runner:
        def __init__(self, name):
            self.name = name

        def initial_states(self):
            return [0]

        def prepare(self, window, states):
            self.states = states

        def compute(self):
            log.append(self.name)

        def results(self):
            return torch.empty(0), [self.states[0] + 1]

    class Eviction(cold.Eviction):
        def evict(self):
            log.append("evict")
            super().evict()

    often, seldom = (Engine(name, chunk, 10.0, Runner(name), [torch.zeros(1)], "int8", 7)
                     for name, chunk in (("often", 1), ("seldom", 32)))  # fmt: skip
    timings = cold.in_cold_cache([often, seldom], 0.5, 1, Eviction(1 << 16))
    assert log[:2] == ["often", "seldom"]  # not timed
    assert all(log[at - 1] == "evict" for at in range(2, len(log)) if log[at] != "evict")
    assert [len(timings[id(engine)].calls) for engine in (often, seldom)] == [50, 2]  # 0.5 s in calls of 10 and 320 ms
    assert timings[id(often)].cache == "cold" and timings[id(often)].dtype == "int8"
    assert often.states == [51]  # as a stream goes on
    assert np.all(timings[id(often)].calls >= 0)
    long = cold.in_cold_cache([often], 1e9, 1, Eviction(1 << 16))[id(often)]
    assert len(long.calls) == cold.CALLS
