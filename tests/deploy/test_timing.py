import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dirnet.deploy import timing
from dirnet.deploy.timing import Engine, Timing


class Worker:
    """A runner that takes `seconds` of the processor to compute, and a while to hand over its results."""

    def __init__(self, seconds, log):
        self.seconds, self.log = seconds, log

    def initial_states(self):
        return [0]

    def prepare(self, window, states):
        self.seen = (window, states)

    def compute(self):
        self.log.append((self.seconds, self.seen[1][0]))
        until = time.thread_time() + self.seconds
        while time.thread_time() < until:
            pass

    def results(self):
        time.sleep(0.005)
        return torch.zeros(1), [self.seen[1][0] + 1]


def test_engines_take_turns_and_only_their_own_work_counts():
    log = []
    slow, fast = (Engine(name, 2, 10.0, Worker(s, log), [torch.zeros(1)]) for name, s in (("a", 0.004), ("b", 0.001)))
    timings = timing.in_turns([slow, fast], seconds=0.6)
    a, b = timings[id(slow)], timings[id(fast)]
    assert len(a.calls) == len(b.calls) == 30  # 0.6 s of audio in calls of 20 ms
    assert 2000 <= a.us() < 2500 and 500 <= b.us() < 1000  # half a call per frame, without the 5 ms of results
    assert a.clock == "cpu" and a.wall_s >= a.calls.sum() > 0.12
    order = [seconds for seconds, _ in log]
    changes = sum(x != y for x, y in zip(order, order[1:], strict=False))
    assert changes >= 5  # turns, not one after the other
    states = [state for seconds, state in log if seconds == 0.004]
    assert states == list(range(len(states)))  # states go round


def test_the_figures_of_a_timing():
    figures = Timing("x", 16, 10.0, np.full(100, 0.0016), "cpu", 0.2).to_mapping()
    assert figures["audio_s"] == pytest.approx(16) and figures["elapsed_s"] == pytest.approx(0.16)
    assert figures["rtf"] == pytest.approx(0.01) == figures["rtf_p50"]
    assert figures["us_per_frame"]["p50"] == pytest.approx(100)
    assert figures["us_per_call"]["p95"] == pytest.approx(1600)


def test_several_threads_are_timed_by_the_wall():
    engine = Engine("a", 1, 10.0, Worker(0.001, []), [torch.zeros(1)])
    timing_ = timing.in_turns([engine], seconds=0.1, threads=2)[id(engine)]
    assert timing_.clock == "wall" and timing_.wall_s == pytest.approx(timing_.calls.sum(), rel=0.1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_pinning_ends_with_the_block():
    before = os.sched_getaffinity(0)
    with timing.pinned(1) as cores:
        assert os.sched_getaffinity(0) == set(cores) and len(cores) == 1 and torch.get_num_threads() == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_the_threads_of_the_pool_are_pinned_too(monkeypatch):
    """They inherit the cores of the thread that makes them."""
    made = []
    runtime = SimpleNamespace(
        _threadpool_get_thread_count=lambda: 4,
        _unsafe_reset_threadpool=lambda threads: made.append((threads, os.sched_getaffinity(0))),
    )
    monkeypatch.setattr(timing, "portable_lib", lambda: runtime)
    with timing.pinned(1) as cores:
        assert made == [(1, set(cores))]


def test_the_machine_is_named():
    machine = timing.machine()
    assert machine["cpu"] and machine["versions"]["executorch"] and machine["system"]
