import json

import numpy as np
import pytest

from dirnet.deploy import onnx_engine
from dirnet.deploy.rtf import main


def test_one_program(exports, tmp_path, program):
    np.save(tmp_path / "feats.npy", np.random.default_rng(0).normal(size=(70, 26)))
    status, text, _ = program(main, "--model", exports / "compressed/encoder.pte", "--seconds", 1,
                              "--out", tmp_path / "rtf.json", "--feats", tmp_path / "feats.npy")  # fmt: skip
    assert status == 0 and "RTF = elapsed / audio = " in text
    result = json.loads((tmp_path / "rtf.json").read_text())
    assert (result["chunk"], result["threads"], result["device"]) == (16, 1, "host")
    assert result["engine"] == "executorch dirnet"
    assert result["audio_s"] >= 1 and result["rtf"] == pytest.approx(result["elapsed_s"] / result["audio_s"])
    us = result["us_per_frame"]
    assert 0 < us["min"] <= us["p50"] <= us["p95"]
    assert {row["chunk"] for row in result["engines"]} == {1, 16}
    assert result["cpu"] and result["versions"]["executorch"] and "speed_up" not in result


def test_a_comparison_names_the_fastest_dense_engine(exports, program):
    status, text, _ = program(main, "--compare", exports / "compressed", exports / "dense", "--seconds", 0.5)
    assert status == 0
    results = {name: json.loads((exports / name / "rtf.json").read_text()) for name in ("compressed", "dense")}
    dense, compressed = results["dense"], results["compressed"]
    engines = {(row["engine"], row["chunk"]): row["us_per_frame"]["p50"] for row in dense["engines"]}
    expected = {("executorch xnnpack", 1), ("executorch dirnet", 1), ("executorch dirnet", 16)}
    if onnx_engine.available():
        expected |= {("onnxruntime", 1), ("onnxruntime", 16)}
    assert engines.keys() == expected
    fastest = min(engines.values())
    assert dense["us_per_frame"]["p50"] == fastest and dense["speed_up"] == 1
    assert compressed["speed_up"] == pytest.approx(fastest / compressed["us_per_frame"]["p50"])
    assert compressed["baseline"] == str(exports / "dense") and "fp32" in compressed["against"]
    single = next(row for row in compressed["engines"] if row["chunk"] == 1)
    fastest_single = min(us for (_, chunk), us in engines.items() if chunk == 1)
    assert single["speed_up"] == pytest.approx(fastest_single / single["us_per_frame"]["p50"])
    assert "speed-up" in text and text.count("RTF = elapsed / audio") == 2


def test_mistakes_are_one_line(exports, tmp_path, program):
    model = ("--model", exports / "compressed/encoder.pte")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "narrow.npy", np.zeros((5, 13)))
    for arguments, message in (
        (("--model", tmp_path / "no.pte"), "no.pte is not there"),
        (("--compare", tmp_path), "encoder.pte is not there"),
        ((*model, "--threads", 0), "--threads is 0"),
        ((*model, "--threads", 4096), "--threads is 4096"),
        ((*model, "--seconds", 0), "--seconds is 0.0"),
        ((*model, "--device", "gpu"), "--device is 'gpu'"),
        ((*model, "--feats", tmp_path / "no.npy"), "no.npy does not exist"),
        ((*model, "--feats", tmp_path / "text.npy"), "is not a .npy array"),
        ((*model, "--feats", tmp_path / "narrow.npy"), r"holds [5, 13]"),
        (("--compare", exports / "dense", "--out", "x"), "--out goes with --model"),
        (("--compare", exports / "compressed", "--baseline", exports / "dense"), "is not among the dense models"),
    ):
        status, _, error = program(main, *arguments)
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status == 2 and len(lines) == 1 and message in lines[0], error
