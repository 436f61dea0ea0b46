"""The accuracy bench on a toy language: every kind of method is compressed, tuned, measured and not run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench import accuracy
from dirnet.nn import storage

METHODS = ["svd", "dirnet_b8_int8", "prune_gradual", "dirnet_regrow", "small"]


def test_every_method_is_measured_before_and_after(work, program):
    folders = ("--workdir", work, "--config", work / "config.yaml", "--out", work / "out")
    options = (*folders, "--seeds", 0, "--device", "cpu")
    status, _, error = program(accuracy.main, *options, "--methods", *METHODS)
    assert status == 0, error
    rows = [json.loads(line) for line in (work / "out/results.jsonl").read_text().splitlines()]
    assert [(row["method"], row["stage"]) for row in rows] == [
        (method, stage) for method in ("dense", *METHODS) for stage in ("before", "after")
    ]
    dense = rows[1]
    for row in rows:
        assert len(row["phone_errors"]) == 4 and "words" not in row  # there is no graph
        if row["method"] != "dense":
            assert row["params"] <= dense["params"] / 3
            saved = storage.load(work / f"out/{row['method']}_3x_0")  # the support came to rest at the budget
            assert sum(parameter.numel() for parameter in saved.parameters()) == row["params"]
    status, _, _ = program(accuracy.main, *options, "--methods", *METHODS)
    assert status == 0 and len((work / "out/results.jsonl").read_text().splitlines()) == len(rows)


def test_layers_may_first_learn_without_labels(work, program):
    config = (work / "config.yaml").read_text()
    (work / "config.yaml").write_text(config + "reconstruct: 0.5\n")
    options = ("--workdir", work, "--config", work / "config.yaml", "--out", work / "out", "--seeds", 0)
    status, _, error = program(accuracy.main, *options, "--device", "cpu", "--methods", "svd", "prune_gradual")
    assert status == 0, error
    rows = [json.loads(line) for line in (work / "out/results.jsonl").read_text().splitlines()]
    learned = {row["method"]: row["missed"] for row in rows if "missed" in row}
    assert learned.keys() == {"svd"} and 0 < learned["svd"][1] < 1
    (work / "config.yaml").write_text(config + "reconstruct: 2\n")
    status, _, error = program(accuracy.main, *options, "--device", "cpu", "--methods", "svd")
    assert status == 2 and "reconstruct is 2.0, expected a part of the training set, from 0 to 1" in error


def test_dense_models_start_from_another_model(work, program):
    folders = ("--workdir", work, "--config", work / "config.yaml", "--seeds", 0, "--device", "cpu", "--methods")
    assert program(accuracy.main, *folders[:-1], "--out", work / "one", "--methods", "dense")[0] == 0
    config = (work / "config.yaml").read_text().replace("epochs: 6, rate: 2.0e-2", "epochs: 1, rate: 1.0e-9")
    (work / "config.yaml").write_text(config)
    options = (*folders, "dense", "--init", work / "one/dense_0", "--out")
    assert program(accuracy.main, *options, work / "two")[0] == 0
    one, two = (storage.load(work / name / "dense_0").state_dict() for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert "holds no model" in program(accuracy.main, *folders, "dense", "--init", work, "--out", work / "three")[2]


def test_workers_end_with_a_parent_that_is_killed(work):
    """Otherwise each would go on to the end of its task, for hours, and nobody would take the result."""
    config = (work / "config.yaml").read_text().replace("epochs: 6", "epochs: 1000000")
    (work / "config.yaml").write_text(config)
    command = [sys.executable, "-m", "bench.accuracy", "--workdir", work, "--config", work / "config.yaml", "--out",
               work / "out", "--seeds", 0, 1, "--methods", "dense", "--device", "cpu", "--jobs", 2]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment) as parent:
        assert "dense" in parent.stderr.readline()
        workers = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(workers) == 3  # one of them counts the resources of the others
        parent.kill()
        ended = time.monotonic() + 60
        while alive := [pid for pid in workers if running(pid)]:
            if time.monotonic() > ended:
                for pid in alive:
                    os.kill(int(pid), signal.SIGKILL)
                raise AssertionError(f"processes {alive} go on without their parent")
            time.sleep(0.1)


def running(pid: str) -> bool:
    """Whether the process is there and no zombie, which waits for an `init` that may not care."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_missing_is_told(work, program):
    options = ("--config", work / "config.yaml", "--out", work / "out", "--device", "cpu")
    status, _, error = program(accuracy.main, "--workdir", work, *options, "--methods", "svdd")
    assert status == 2 and "method 'svdd' is unknown" in error
    status, _, error = program(accuracy.main, "--workdir", work / "data", *options)
    assert status == 2 and "run stages 0 to 2 of the recipe" in error
    for sizes, message in (("3x 8y", "size '8y' is not understood"), ("rtf=0.1", "size rtf=0.1 needs a cost model")):
        status, _, error = program(accuracy.main, "--workdir", work, *options, "--sizes", *sizes.split())
        assert status == 2 and message in error and not (work / "out/dense_0").exists()


def test_another_configuration_is_not_mixed_in(work, program):
    options = ("--workdir", work, "--config", work / "config.yaml", "--out", work / "out", "--device", "cpu")
    (work / "out").mkdir()  # of an older bench
    assert program(accuracy.main, *options, "--seeds", 0, "--methods", "dense")[0] == 0
    config = (work / "config.yaml").read_text()
    (work / "config.yaml").write_text(config.replace("[svd]", "[odl]").replace("[3x]", "[4x]"))
    assert program(accuracy.main, *options, "--seeds", 0, "--methods", "dense")[0] == 0
    (work / "config.yaml").write_text(config.replace("frame_stride: 1", "frame_stride: 2"))
    status, _, error = program(accuracy.main, *options, "--seeds", 0, "--methods", "dense")
    assert status == 2 and "setting.json: these results are of frame_stride 1, not 2; give another --out" in error
    (work / "config.yaml").write_text(config)
    (work / "methods.yaml").write_text("svd: {solver: svd}\n")
    (work / "config.yaml").write_text(config + f"compress_config: {work}/methods.yaml\n")
    assert program(accuracy.main, *options, "--seeds", 0, "--methods", "svd", "--sizes", "3x")[0] == 0
    (work / "methods.yaml").write_text("svd: {solver: svd, allocation: equal}\n")
    status, _, error = program(accuracy.main, *options, "--seeds", 0, "--methods", "svd", "--sizes", "3x")
    assert status == 2 and "setting.json: these results are of method svd {" in error


def test_settings_are_read_before_anything_is_trained_or_kept(work, program):
    folders = ("--workdir", work, "--config", work / "config.yaml", "--out", work / "out", "--device", "cpu")
    config = (work / "config.yaml").read_text()
    (work / "config.yaml").write_text(config.replace("finetune: {epochs", "finetune: {epoch"))
    status, _, error = program(accuracy.main, *folders)
    assert status == 2 and "config.yaml: finetune: unknown key 'epoch'" in error and not (work / "out").exists()


def test_results_of_another_corpus_or_dense_model_do_not_mix(work, program):
    options = ("--workdir", work, "--config", work / "config.yaml", "--out", work / "out", "--device", "cpu",
               "--seeds", 0, "--methods", "dense")  # fmt: skip
    assert program(accuracy.main, *options)[0] == 0
    status, _, error = program(accuracy.main, *options, "--dense_seed", 7)
    assert status == 2 and "these results are of dense_seed None, not 7; give another --out" in error
    with open(work / "data/test/text_phones", "a") as stream:
        stream.write("test9 AA\n")
    status, _, error = program(accuracy.main, *options)
    assert status == 2 and "these results are of corpus" in error
    (work / "data/test/text_phones").unlink()
    assert "run stages 0 to 2 of the recipe" in program(accuracy.main, *options)[2]
