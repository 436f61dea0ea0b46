"""The cost model on a made-up machine whose stages take exactly known times, and what measures it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench import scale, scale_table
from dirnet.asr import datadir

COSTS = {stage: (1.0 + number, 10.0 * (1 + number)) for number, stage in enumerate(scale_table.ROWS)}


def cells(hours=(0.5, 1.0, 2.0)):
    return [
        {"stage": stage, "hours": at, "cpu_s": fixed + rate * at, "wall_s": 2 * (fixed + rate * at), "peak_mb": 300.0,
         "left_bytes": int(9e6 * at), "device": "a processor", "commit": "abc", "asked": at}
        for stage, (fixed, rate) in COSTS.items() for at in hours
    ]  # fmt: skip


def options(**changes):
    given = {"data": "work", "config": "c.yaml", "model": None, "ngpu": 0, "gpu_rate": None}
    return argparse.Namespace(**{**given, "epochs": 40, "smbr_epochs": 5, **changes})


@pytest.mark.parametrize(("seconds", "said"), [(3.21, "3.2 s"), (119, "119 s"), (600, "10 min"), (36000, "10 h")])
def test_times_are_told_in_few_digits(seconds, said):
    assert scale_table.shown(seconds) == said


def test_the_line_through_the_samples():
    for stage, (fixed, rate) in COSTS.items():
        line = scale_table.line_of([row for row in cells() if row["stage"] == stage], "cpu_s")
        assert (line.fixed, line.rate) == (pytest.approx(fixed), pytest.approx(rate))
        assert line.seconds(960) == pytest.approx(fixed + 960 * rate)
    noisy = [{**row, "cpu_s": 5.0 - row["hours"]} for row in cells()[:2]]
    assert scale_table.line_of(noisy, "cpu_s").rate == 0  # a stage never gets cheaper by more audio


def test_the_tables():
    page = scale_table.page(cells(), options())
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    fixed, rate = COSTS["features"]
    assert f"| features | {rate:.1f} | {fixed:.1f} | 300 | 9.0 | 11 s | 101 s | 17 min | 2.7 h |" == rows["features"]
    training = 40 * (2 + 20 * 960) + 5 * (3 + 30 * 960)
    assert f"{training / 3600:.0f} h" in rows["`./run.sh --stage 3 --stop_stage 4 --ngpu G`"]
    assert "R is not measured" in page and "8.6 GB" in rows["`./run.sh --stage 1 --stop_stage 1 --nj N`"]
    given = scale_table.page(cells(), options(gpu_rate=400.0))
    passes = training / (2 + 20 * 960)
    assert f"| stages 3 and 4 | {passes * 960 / 400:.0f} h | {passes * 960 / 400 / 1.8:.0f} h |" in given
    assert "R = 400 (given by --gpu_rate, not measured)" in given and "R is not measured" not in given
    gpu = scale_table.page(cells(), options(ngpu=1))
    assert "R = 90 (measured)" in gpu  # 3600 / 40 wall seconds an hour


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--hours", "2", "1"], "--hours is 2 1, expected two numbers above 0 in rising order"),
        (["--gpu_rate", "0"], "--gpu_rate is 0, expected hours of audio per hour above 0"),
        (["--hours", "1", "2"], "utt2dur does not exist; run stages 0 to 2"),
    ],
)
def test_mistakes(program, tmp_path, more, said):
    status, _, error = program(scale.main, "--data", tmp_path, "--out", tmp_path / "out", *more)
    assert status == 2 and said in error


def test_a_sample_is_spread_over_the_corpus(tmp_path, corpus):
    train = corpus(tmp_path / "work/data/train", speakers=10, utterances=20)
    names = sorted(datadir.read_table(train / "wav.scp"))
    datadir.write_table(train / "utt2dur", {name: "18.0" for name in names})  # an hour in all
    datadir.write_table(train / "text_phones", {name: "AA B" for name in names})
    hours = scale.make_sample(tmp_path / "work", tmp_path / "out", 0.25)
    chosen = sorted(datadir.read_table(tmp_path / "out/data/train/wav.scp"))
    assert hours == pytest.approx(0.25) and len(chosen) == 50
    assert len({name.partition("-")[0] for name in chosen}) == 10
    dev = tmp_path / "out/data/dev/text_phones"
    assert sorted(datadir.read_table(dev)) == chosen[:: scale.DEV]
    dev.unlink()  # killed before it was written
    scale.make_sample(tmp_path / "work", tmp_path / "out", 0.25)
    assert sorted(datadir.read_table(dev)) == chosen[:: scale.DEV]


def test_memory_and_time_are_those_of_the_program_alone(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text(
        "import sys, time\nheld = bytearray(int(sys.argv[1]) * 1000000)\nheld[::4096] = b'x' * len(held[::4096])\n"
        "end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nsys.exit(int(sys.argv[2]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    mine = np.ones(40_000_000)  # 320 MB here, which are not the program's
    cpu, wall, peak = scale.run("hungry 100 0", tmp_path)
    assert 0.5 <= cpu < 1.5 and wall >= 0.5 and 100 < peak < 200 and len(mine)
    with pytest.raises(scale.UserError, match="`python -m hungry 1 3` ended with 3; look at"):
        scale.run("hungry 1 3", tmp_path)


def test_finished_cells_are_kept_and_another_setting_refused(tmp_path):
    log = tmp_path / "scale.jsonl"
    assert scale.finished(log, {"data": "a"}) == []
    log.write_text(json.dumps({"setting": {"data": "a"}, "stage": "features"}) + '\n{"setting": {"da')  # torn
    assert [row["stage"] for row in scale.finished(log, {"data": "a"})] == ["features"]
    with pytest.raises(scale.UserError, match=re.escape(f"{log} is of data 'a', not 'b'")):
        scale.finished(Path(log), {"data": "b"})
