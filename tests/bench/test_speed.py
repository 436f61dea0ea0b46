"""The bench of all engines: honest sizes, and one tiny model measured in full."""

from __future__ import annotations

import json
import re

import pytest

from dirnet.deploy import engines
from dirnet.errors import UserError


@pytest.fixture
def speed(script):
    return script("bench/speed.py")


@pytest.mark.parametrize("size", [4, 7.9, 15])
def test_models_are_as_small_as_they_claim(speed, size):
    configs = speed.models(5, 500, size)
    whole = speed.params(configs["dense"])
    assert whole == sum(2000 * (rows + 500 + 2) for rows in (494, 500, 500, 500, 500)) + 501 * 42
    for name, config in configs.items():
        if name.startswith("dirnet"):
            assert speed.params(config) == pytest.approx(whole / size, rel=0.02)
    for suffix in ("", "_int8"):
        low_rank, blocks = (speed.stored(configs[name + suffix]) for name in ("svd", "dirnet_b16"))
        assert 0.98 * blocks <= low_rank <= blocks
        assert all(blocks is None for _, blocks in configs[f"svd{suffix}"].compression)
    assert {name: configs[name].block for name in ("dirnet", "dirnet_b8_int8")} == {"dirnet": 1, "dirnet_b8_int8": 8}
    assert configs["dirnet_b8_int8"].dtype == "int8" and configs["dirnet_b8_int8"].block == 8


def test_a_size_out_of_reach_is_told(speed):
    with pytest.raises(UserError, match="--size is 400"):
        speed.models(5, 500, 400)


def test_goals_are_compared_with_the_worst_chunk(speed):
    def line(dtype, chunk, us, fp32, int8, read=1.2):
        return {"dtype": dtype, "cache": "hot", "chunk": chunk, "us_per_frame": {"p50": us}, "speed_up": fp32,
                "speed_up_int8": int8, "read_ratio": read}  # fmt: skip

    results = {
        "dense": {"engines": [line("fp32", chunk, 100, 1, 1) for chunk in (1, 8, 32)]},
        "dirnet_b8": {"engines": [line("fp32", 1, 12, 8, 3), line("fp32", 8, 10, 7, 1), line("fp32", 32, 9, 5, 1)]},
        "dirnet_b16": {"engines": [line("fp32", 1, 13, 7, 2), line("fp32", 8, 9, 7, 1), line("fp32", 32, 9, 6.5, 1)]},
        "svd": {"engines": [line("fp32", chunk, 10, 9, 2) for chunk in (1, 8, 32)]},
        "dirnet_b8_int8": {"engines": [line("fp32", 1, 13, 7, 2)]},  # exported as floats
        "dirnet_b16_int8": {"engines": [line("int8", 1, 4, 20, 4.5, 1.6), line("int8", 8, 4, 20, 3.9)]},
        "svd_int8": {"engines": [line("int8", 1, 3, 20, 4.5)]},
    }
    told = [re.search(r": ([^:]*)$", text)[1] for text in speed.goals(results)]
    assert told == ["8.00x (dirnet_b8), reached", "6.50x (dirnet_b16), reached", "3.00x (dirnet_b8), reached",
                    "3.90x (dirnet_b16_int8), missed", "1.33, missed", "1.60, missed"]  # fmt: skip


@pytest.mark.slow
def test_everything_is_measured_and_a_second_run_exports_nothing(speed, program, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "TOLERANCE", 0.2)  # so small a model
    monkeypatch.setattr(speed, "SHARES", {block: speed.SHARES[block] for block in speed.BLOCKS})  # fewer exports
    monkeypatch.setattr(engines, "stock_program", None)  # its export takes long, and has its own test
    arguments = ("--out", tmp_path, "--layers", 1, "--hidden", 32, "--size", 4, "--seconds", 0.03, "--chunks", 1, 2)
    status, shown, error = program(speed.main, *arguments)
    assert "executorch xnnpack int8 is left out" in error
    assert status == 0 and "cold caches:" in shown, error
    assert all(shown.count(f"executorch dirnet {dtype} |") >= 8 for dtype in ("fp32", "int8"))
    assert len(re.findall(r"^\* .*(reached|missed|-)$", shown, re.MULTILINE)) == 6
    results = json.loads((tmp_path / "speed.json").read_text())
    compressed = {f"{name}{dtype}" for name in ("svd", "dirnet_b8", "dirnet_b16") for dtype in ("", "_int8")}
    assert {"dense", *compressed} == set(results)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pte")}
    monkeypatch.setattr(speed, "export", None)
    for name, config in speed.models(1, 32, 4).items():
        speed.write(config, tmp_path / name)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pte")} and len(written) == 7
