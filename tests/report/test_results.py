"""The results table: real models on disk, scores as the scorer writes them, dashes where nothing was measured."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import torch

import dirnet
from dirnet.asr.lexicon import OUTPUTS
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.report import page, results

TIMING = {
    "rtf": 0.0015, "rtf_p50": 0.00123, "us_per_frame": {"min": 40.0, "p50": 41.0, "p95": 60.0}, "speed_up": 1.0,
    "against": "onnxruntime fp32", "engine": "onnxruntime", "dtype": "fp32", "chunk": 16, "device": "host",
    "load_average": [1.94, 1.0, 1.0], "cpu_count": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """A dense model with scores, its SVD without any."""
    exp = tmp_path_factory.mktemp("exp")
    torch.manual_seed(0)
    model = AcousticModel(AcousticModelConfig("lstm", 32, 2, phones=tuple(OUTPUTS)))
    storage.save(model, exp / "ctc")
    dense = sum(parameter.numel() for parameter in model.parameters())
    small, report = dirnet.compress(model, size="4x", method="svd", progress=False)
    storage.save(small, exp / "svd_4x")
    (exp / "svd_4x" / "start").mkdir()
    (exp / "svd_4x" / "start" / "compression.json").write_text(json.dumps(report))
    (exp / "ctc" / "decode_test").mkdir()
    score = {"percent": 12.34, "percent_low": 10.0, "percent_high": 14.0}
    (exp / "ctc" / "decode_test" / "per.json").write_text(json.dumps(score))
    (exp / "ctc" / "rtf.json").write_text(json.dumps(TIMING))
    curves = [{"epoch": e, "seconds": 2, "train": {"loss": 9 / e}, "dev": {"loss": 10 / e}} for e in (1, 2, 3)]
    (exp / "ctc" / "curves.json").write_text(json.dumps(curves))
    return exp, dense


def test_rows_hold_what_is_on_disk(experiments):
    exp, dense = experiments
    ctc, svd = results.collect(exp, ["ctc", "svd_4x"], "test")
    assert (ctc.params, ctc.ratio, ctc.bytes) == (dense, 1.0, 4 * dense)
    assert str(ctc.per) == "12.3 [10.0, 14.0]" and ctc.wer is None and len(ctc.curves) == 3
    assert ctc.cells()[6:] == ["0.001230", "1.0x"]  # both of the median
    assert 4 <= svd.ratio < 4.3 and svd.ratio == dense / svd.params
    assert svd.cells()[4:] == ["-"] * 4
    assert sum(group["params"] for group in svd.groups) < svd.params


def test_a_peer_that_is_not_compressed_is_marked(experiments, tmp_path):
    exp, _ = experiments
    small, report = dirnet.compress(storage.load(exp / "ctc"), "4x", "small")
    storage.save(small, tmp_path / "small_4x")
    (tmp_path / "small_4x" / "start").mkdir()
    (tmp_path / "small_4x" / "start" / "compression.json").write_text(json.dumps(report))
    (row,) = results.collect(tmp_path, ["small_4x"], "test")
    assert row.dense and row.cells()[0] == "small_4x (dense)" and row.groups == []
    assert not any(row.dense for row in results.collect(exp, ["ctc", "svd_4x"], "test"))


def test_markdown_is_a_table_in_the_order_of_the_models(experiments):
    exp, _ = experiments
    lines = results.markdown(results.collect(exp, ["ctc", "svd_4x"], "test")).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["ctc", "svd_4x"]


def test_a_model_knows_the_trainings_that_led_to_it(experiments, tmp_path):
    exp, _ = experiments
    model = storage.load(exp / "ctc")
    storage.save(model, tmp_path / "ctc", {"training": {"init": None}})
    storage.save(model, tmp_path / "smbr", {"training": {"init": "elsewhere/ctc"}})
    records = [{"epoch": 1, "train": {}, "dev": {"per": 0.5}}]
    (tmp_path / "ctc" / "curves.json").write_text(json.dumps(records))
    assert results.stages_of(tmp_path, "smbr") == [("ctc", records), ("smbr", [])]
    assert results.stages_of(tmp_path, "ctc") == [("ctc", records)]
    storage.save(model, tmp_path / "alone", {"training": {"init": "alone"}})
    assert results.stages_of(tmp_path, "alone") == [("alone", [])]


def test_codes_are_those_of_the_groups(experiments):
    exp, _ = experiments
    small, report = dirnet.compress(storage.load(exp / "ctc"), "6x", "dirnet", progress=False)
    codes = results.codes_of(small, report["groups"])
    assert [code.name for code in codes] == ["input", "hidden_l0", "hidden_l1"]
    for code, group in zip(codes, report["groups"], strict=True):
        assert code.shape[0] == group["atoms"] and code.shape[1] == group["columns"] and code.density < 1
        assert code.cells.shape <= code.shape and float(code.cells.max()) > 0


def test_a_model_that_was_not_fine_tuned_has_its_groups_too(experiments, tmp_path):
    """`dirnet compress --out DIR` leaves compression.json beside the model, the recipe in DIR/start."""
    shutil.copytree(experiments[0] / "svd_4x", tmp_path / "small")
    (tmp_path / "small/start/compression.json").rename(tmp_path / "small/compression.json")
    (row,) = results.collect(tmp_path, ["small"], "test")
    assert row.method == "svd" and len(row.groups) == 3


def test_missing_and_damaged_files_are_named(experiments, tmp_path):
    exp, _ = experiments
    with pytest.raises(UserError, match="none/model.json does not exist"):
        results.collect(exp, ["none"], "test")
    (tmp_path / "rtf.json").write_text("{")
    with pytest.raises(UserError, match="rtf.json is not JSON"):
        results.read_result(tmp_path / "rtf.json")
    for number in ("NaN", "Infinity", "-Infinity"):
        (tmp_path / "rtf.json").write_text(f'{{"rtf": {number}}}')
        with pytest.raises(UserError, match=f"rtf.json is not JSON .it holds {number}.; delete it"):
            results.read_result(tmp_path / "rtf.json")


@pytest.mark.parametrize(("content", "lacks"), [("[]", "dict"), ("{}", "percent")])
def test_a_result_of_another_shape_is_named(experiments, tmp_path, content, lacks):
    shutil.copytree(experiments[0] / "ctc", tmp_path / "ctc")
    (tmp_path / "ctc/decode_test/wer.json").write_text(content)
    with pytest.raises(UserError, match=f"wer.json holds no {lacks}; delete it and run its stage again"):
        results.collect(tmp_path, ["ctc"], "test")


def test_a_compressed_model_is_nothing_to_compare_with(experiments, tmp_path):
    shutil.copytree(experiments[0] / "svd_4x", tmp_path / "svd_4x")
    shutil.copytree(experiments[0] / "ctc", tmp_path / "ctc")
    small, made_of = storage.load(tmp_path / "svd_4x"), storage.describe(tmp_path / "ctc")["sha256"]
    storage.save(small, tmp_path / "svd_4x/start", {"compression": {"dense_sha256": made_of}})
    with pytest.raises(UserError, match="svd_4x is a compressed model.*give its dense model first"):
        results.collect(tmp_path, ["svd_4x", "ctc"], "test")


def test_a_figure_of_an_older_model_is_left_out_and_said(experiments, tmp_path, capsys):
    shutil.copytree(experiments[0] / "ctc", tmp_path / "ctc")
    scored = tmp_path / "ctc" / "decode_test" / "per.json"
    os.utime(scored, (1, 1))
    (row,) = results.collect(tmp_path, ["ctc"], "test")
    assert row.per is None and row.speed_up == 1.0
    assert capsys.readouterr().err == (
        f"{scored} is older than {tmp_path}/ctc/model.json, so it is left out; run its stage again\n"
    )


def test_the_page_holds_table_figures_and_origin(experiments, program, tmp_path):
    exp, _ = experiments
    status, shown, _ = program(
        page.main, "--exp", exp, "--models", "ctc", "svd_4x", "--out", tmp_path, "--command", "./run.sh <x>"
    )
    assert status == 0 and "| svd_4x |" in shown
    text = (tmp_path / "index.html").read_text()
    assert text.count("<svg") == 3 and "./run.sh &lt;x&gt;" in text and "ctc 3 (6 s)" in text
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "(onnxruntime fp32, 16 outputs a call)" in text and "Load average 1.9 on 2 cores while timing." in text
    table = (tmp_path / "results.md").read_text()
    assert "12.3 [10.0, 14.0]" in table and "* commit: " in table


def test_the_error_rate_is_named_after_the_tokens(tmp_path):
    model = AcousticModel(AcousticModelConfig("lstm", 8, 1, phones=("<blank>", "a", "b", "<space>"), num_outputs=4))
    storage.save(model, tmp_path / "ctc")
    (tmp_path / "ctc" / "decode_test").mkdir()
    score = {"percent": 5.0, "percent_low": 4.0, "percent_high": 6.0}
    (tmp_path / "ctc" / "decode_test" / "cer.json").write_text(json.dumps(score))
    rows = results.collect(tmp_path, ["ctc"], "test")
    assert "CER %" in results.columns(rows) and "5.0 [4.0, 6.0]" in results.markdown(rows)


def test_every_test_set_has_its_table(experiments, program, tmp_path):
    exp, _ = experiments
    arguments = ("--exp", exp, "--models", "ctc", "svd_4x", "--out", tmp_path, "--test_set", "test", "other")
    status, _, error = program(page.main, *arguments)
    assert status == 2 and "--test_set other was decoded by no model; expected one of test" in error
    assert not (tmp_path / "index.html").exists()
    (exp / "ctc/decode_other").mkdir()
    status, shown, _ = program(page.main, *arguments)
    assert status == 0 and shown.count("| svd_4x |") == 2 and shown.count("12.3 [10.0, 14.0]") == 1
    assert (tmp_path / "results.md").read_text().startswith("test:\n\n| model")
    assert re.findall(r"<h3>Test set (\w+)</h3>", (tmp_path / "index.html").read_text()) == ["test", "other"]


def test_figures_without_data_are_left_out(experiments, program, tmp_path):
    exp, _ = experiments
    assert program(page.main, "--exp", exp, "--models", "svd_4x", "--out", tmp_path)[0] == 0
    assert (tmp_path / "index.html").read_text().count("<svg") == 1  # atoms and density


@pytest.mark.parametrize(("corpus", "said"), [("mini ", True), ("kaldi /corpora/mini", False), (None, False)])
def test_synthetic_speech_is_called_so(experiments, program, tmp_path, corpus, said):
    if corpus:
        (tmp_path / ".corpus").write_text(f"{corpus}\n")
    arguments = ("--exp", experiments[0], "--models", "svd_4x", "--data", tmp_path, "--out", tmp_path / "report")
    assert program(page.main, *arguments)[0] == 0
    for name in ("index.html", "results.md"):
        text = (tmp_path / "report" / name).read_text()
        assert ("synthetic speech" in text and "not how well anything recognises people" in text) == said


def test_the_caption_names_chunks_one_by_one_only_where_they_differ():
    rows = [results.Row(name, name, 1, 4, 1.0, timing=TIMING) for name in ("smbr", "svd_4x")]
    assert "outputs a call: 16. Load" in page.timing_caption(rows)
    rows[1] = results.Row("svd_4x", "svd", 1, 4, 1.0, timing=TIMING | {"chunk": 1})
    assert "outputs a call: smbr 16, svd_4x 1. Load" in page.timing_caption(rows)


def test_a_figure_of_another_model_is_left_out_and_said(experiments, tmp_path, capsys):
    shutil.copytree(experiments[0] / "ctc", tmp_path / "ctc")
    timed = tmp_path / "ctc" / "rtf.json"
    own = storage.describe(tmp_path / "ctc")["sha256"]
    timed.write_text(json.dumps(TIMING | {"model_sha256": own}))
    assert results.collect(tmp_path, ["ctc"], "test")[0].rtf and not capsys.readouterr().err
    timed.write_text(json.dumps(TIMING | {"model_sha256": "0" * 64}))
    (row,) = results.collect(tmp_path, ["ctc"], "test")
    assert row.rtf is None and f"{timed} is of another model than {tmp_path}/ctc/model.json" in capsys.readouterr().err


def test_a_model_made_from_another_one_than_the_first_is_refused(experiments, tmp_path):
    shutil.copytree(experiments[0] / "ctc", tmp_path / "ctc")
    shutil.copytree(experiments[0] / "svd_4x", tmp_path / "svd_4x")
    small = storage.load(tmp_path / "svd_4x")
    for name in ("ctc", "another"):
        made_of = storage.describe(tmp_path / "ctc")["sha256"] if name == "ctc" else "0" * 64
        storage.save(small, tmp_path / "svd_4x/start", {"compression": {"dense_sha256": made_of}})
        if name == "ctc":
            assert len(results.collect(tmp_path, ["ctc", "svd_4x"], "test")) == 2
        else:
            with pytest.raises(UserError, match="svd_4x was made from another model than .*ctc, with which the table"):
                results.collect(tmp_path, ["ctc", "svd_4x"], "test")
