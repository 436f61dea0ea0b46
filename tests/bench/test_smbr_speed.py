"""The cost of sMBR is printed for every order and number of threads, its memory for long utterances."""

from __future__ import annotations

import re

import torch

from bench import smbr_speed
from dirnet.asr.denominator import DenominatorGraph


def test_a_line_for_every_setting(program, monkeypatch):
    monkeypatch.setattr(smbr_speed, "FRAMES", 30)
    threads = torch.get_num_threads()
    options = ("--threads", 1, "--order", 2, 3, "--batch", 2, "--repeats", 1, "--frames", 50)
    status, shown, error = program(smbr_speed.main, *options)
    torch.set_num_threads(threads)
    assert status == 0, error
    pattern = r"1 threads, order (\d), (\d+) states: loss ([\d.]+) s, network ([\d.]+) s, ratio ([\d.]+)"
    found = re.findall(pattern, shown)
    assert [order for order, *_ in found] == ["2", "3"] and found[0][1] == "84"
    assert all(float(network) > 0 and float(ratio) > 0 for *_, network, ratio in found)
    assert len(re.findall(r"order \d, 50 frames: [\d.]+ MB at once, [\d.]+ MB by 7", shown)) == 2


def test_pieces_take_less_memory():
    graph = DenominatorGraph.build(smbr_speed.random_ngram(3))
    whole, pieces = (smbr_speed.peak_bytes(graph, 900, chunk) for chunk in (900, 30))
    assert 0 < pieces < whole / 3
