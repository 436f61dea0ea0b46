"""The timing program on models of no size: one line per model, and its options."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("rnn, cell", [("lstm", False), ("gru", False), ("rnn", False), ("lstm", True), ("gru", True)])
def test_one_line_per_model(script, program, rnn, cell):
    speed = script("bench/training_speed.py")
    threads = torch.get_num_threads()
    tiny = ["--rnn", rnn, "--layers", 1 if cell else 2, "--cell", str(cell).lower(), "--hidden", 16, "--inputs", 24]
    tiny += ["--size", 4, "--frames", 3, "--rounds", 1]
    status, shown, _ = program(speed.main, *tiny, "--batch", 2, 3, "--device", "cpu", "--threads", 1)
    torch.set_num_threads(threads)
    lines = shown.splitlines()
    assert status == 0 and len(lines) == 2 * 10 and all("of dense speed" in line for line in lines)
    assert sum("batch 3: dense " in line and " 1.00 of dense" in line for line in lines) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu_is_told(script, program):
    status, _, error = program(script("bench/training_speed.py").main, "--device", "cuda")
    assert status == 2 and "torch sees none" in error


def test_a_cell_is_one_layer(script, program):
    status, _, error = program(script("bench/training_speed.py").main, "--cell", "true")
    assert status == 2 and "--layers is 5, expected 1 with --cell true" in error
