"""The cost model of the kernels: the fit, the grid, the program."""

import json

import numpy as np
import pytest

from dirnet.deploy import cost
from dirnet.nn.running import BLOCKS, load_cost_model, model_counts


def test_rates_are_found_again_and_never_negative():
    draw = np.random.default_rng(0)
    rates = {"a": 2e-9, "b": 3e-11, "c": 0.0}
    counts = [{name: float(draw.integers(1, 100) * scale) for name, scale in zip("abc", (1, 90, 7), strict=True)}
              for _ in range(20)]  # fmt: skip
    seconds = [sum(rates[name] * row[name] for name in row) for row in counts]
    assert cost.fit(counts, seconds) == pytest.approx(rates, rel=1e-4, abs=1e-14)
    less = [time - 1e-10 * row["c"] for time, row in zip(seconds, counts, strict=True)]
    found = cost.fit(counts, less)
    assert found["c"] == 0 and min(found.values()) >= 0


def test_the_grid_uses_every_count_in_several_models():
    used = {}
    for config in cost.grid():
        for name, count in model_counts(config).items():
            used[name] = used.get(name, 0) + (count > 0)
    expected = {f"codes{block}_{mode}" for block in BLOCKS for mode in ("single", "tiled")}
    expected |= {"dense_single", "dense_tiled", "columns_single", "columns_tiled"}
    expected |= {f"int8_{name}" for name in expected} | {"int8_masked", "masked_single", "masked_tiled"}
    expected |= {"layers", "model", "window", "lstm_units", "gru_units", "rnn_units"}
    assert used.keys() == expected and min(used.values()) >= 3
    assert [config.to_mapping() for config in cost.grid()] == [config.to_mapping() for config in cost.grid()]


def test_the_program_measures_and_writes(tmp_path, program, monkeypatch):
    """A few models of the grid: predictions are near what was measured, bigger work is predicted to take longer."""
    whole = cost.grid()
    monkeypatch.setattr(cost, "grid", lambda: whole[3::27])
    path = tmp_path / "cost.json"
    status, text, _ = program(cost.main, "--out", path, "--seconds", 5)
    assert status == 0 and "rates of" in text
    content = json.loads(path.read_text())
    model = load_cost_model(path, content["device"], 1)
    assert model.error["median"] < 0.5 and model.error["models"] == len(whole[3::27]) and model.chunk == 16
    seconds = [model.seconds(model_counts(config)) for config in whole[3::27]]
    assert all(1e-7 < second < 1e-2 for second in seconds)
    for arguments, message in ((("--threads", 999), "--threads is 999"), (("--seconds", 0), "--seconds is 0.0")):
        status, _, error = program(cost.main, "--out", path, *arguments)
        assert status == 2 and message in error


def test_a_folder_to_write_is_told_before_the_work(tmp_path, program):
    status, _, error = program(cost.main, "--out", tmp_path)
    assert status == 2 and "is a folder; give the file to write" in error and error.count("\n") == 1
