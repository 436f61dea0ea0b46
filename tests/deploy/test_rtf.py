import json
import shutil

import numpy as np
import pytest

from dirnet.deploy import onnx_engine
from dirnet.deploy.rtf import main
from dirnet.nn import storage


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


def test_a_comparison_names_the_fastest_dense_engines(exports, program):
    folders = [exports / "compressed", exports / "dense"]
    status, text, error = program(main, "--compare", *folders, "--seconds", 0.1, "--chunks", "1,4")
    assert status == 0
    results = {name: json.loads((exports / name / "rtf.json").read_text()) for name in ("compressed", "dense")}
    dense, compressed = results["dense"], results["compressed"]
    rows = {(r["engine"], r["dtype"], r["chunk"], r["cache"]): r for r in dense["engines"] + compressed["engines"]}
    peers = {(engine, dtype) for engine in ("torch", "executorch dirnet") for dtype in ("fp32", "int8")}
    if onnx_engine.available():
        peers |= {("onnxruntime", "fp32"), ("onnxruntime", "int8")}
    expected = {(*peer, chunk, cache) for peer in peers for chunk in (1, 4) for cache in ("hot", "cold")}
    stock = {("executorch xnnpack", dtype, 1, cache) for dtype in ("fp32", "int8") for cache in ("hot", "cold")}
    own = {("executorch dirnet", "fp32", chunk, cache) for chunk in (1, 4, 16) for cache in ("hot", "cold")}
    assert rows.keys() == expected | stock | own and "left out" not in error
    for row in rows.values():
        for dtype, name in (("fp32", "speed_up"), ("int8", "speed_up_int8")):
            best = min(r["us_per_frame"]["p50"] for r in dense["engines"]
                       if (r["dtype"], r["cache"]) == (dtype, row["cache"]) and r["chunk"] <= row["chunk"])  # fmt: skip
            assert row[name] == pytest.approx(best / row["us_per_frame"]["p50"])
    assert dense["speed_up"] == 1 and (compressed["chunk"], compressed["cache"]) == (16, "hot")
    assert compressed["read_ratio"] == pytest.approx(compressed["us_per_frame"]["p50"] / compressed["read_us"])
    assert compressed["weight_bytes"] == json.loads((exports / "compressed/encoder.json").read_text())["weight_bytes"]
    assert compressed["baseline"] == str(exports / "dense") and "fp32" in compressed["against"]
    assert "us per frame, cold cache" in text and text.count("RTF = elapsed / audio") == 2
    assert max(map(len, text.split("RTF =")[0].splitlines())) <= 120


def test_mistakes_are_one_line(exports, tmp_path, program):
    model = ("--model", exports / "compressed/encoder.pte")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 26), }"
    for name, text in (("huge", header), ("half", header[:40])):
        (tmp_path / f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    np.save(tmp_path / "narrow.npy", np.zeros((5, 13)))
    for arguments, message in (
        (("--model", tmp_path / "no.pte"), "no.pte is not there"),
        (("--model", exports / "dense"), "dense is a folder, expected a program; give its encoder.pte"),
        (("--compare", tmp_path), "encoder.pte is not there"),
        ((*model, "--out", tmp_path), "is a folder; give the file to write"),
        ((*model, "--threads", 0), "--threads is 0"),
        ((*model, "--threads", 4096), "--threads is 4096"),
        ((*model, "--seconds", 0), "--seconds is 0.0"),
        ((*model, "--seconds", "inf"), "--seconds is inf"),
        ((*model, "--chunks", "1,x"), "--chunks is '1,x'"),
        ((*model, "--chunks", "65"), "from 1 to 64"),
        ((*model, "--chunks", "8²"), "--chunks is '8²'"),
        ((*model, "--cache", "warm"), "--cache is 'warm'"),
        ((*model, "--device", "gpu"), "--device is 'gpu'"),
        ((*model, "--feats", tmp_path / "no.npy"), "no.npy does not exist"),
        ((*model, "--feats", tmp_path / "text.npy"), "is not a .npy array"),
        ((*model, "--feats", tmp_path / "empty.npy"), "is not a .npy array"),
        *(((*model, "--feats", tmp_path / f"{name}.npy"), "is not a .npy array") for name in ("huge", "half")),
        ((*model, "--feats", tmp_path / "cut.npz"), "is not a .npy array"),
        ((*model, "--feats", tmp_path / "narrow.npy"), r"holds [5, 13]"),
        ((*model, "--cluster", "big"), "--cluster big goes with --device adb"),
        ((*model, "--baseline", exports / "dense"), "--baseline goes with --compare"),
        ((*model, "--xnnpack_chunks", "1,8"), "--xnnpack_chunks goes with --compare"),
        (("--compare", exports / "dense", "--out", "x"), "--out goes with --model"),
        (("--compare", exports / "compressed", "--baseline", exports / "dense"), "is not among the dense models"),
    ):
        status, _, error = program(main, *arguments)
        lines = [line for line in error.splitlines() if "error:" in line]
        assert status == 2 and len(lines) == 1 and message in lines[0], error


def test_a_program_of_another_model_is_not_timed(exports, tmp_path, program):
    """As it lies in a folder after the model there was compressed anew."""
    shutil.copytree(exports / "compressed", tmp_path / "anew")
    for name in (storage.WEIGHTS, storage.DESCRIPTION):
        shutil.copy(exports / "dense" / name, tmp_path / "anew" / name)
    for options in (("--model", tmp_path / "anew/encoder.pte"), ("--compare", exports / "dense", tmp_path / "anew")):
        status, _, error = program(main, *options)
        assert status == 2 and "anew/encoder.pte is of another model than" in error and error.count("\n") == 1
