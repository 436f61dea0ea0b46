"""`run.sh` itself: every stage on a corpus of 20 training utterances, a rerun that does nothing, other units."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from recipe_runs import ROOT, run

MODELS = ("smbr", "svd_3x", "dirnet_3x")


def tiny(folder: Path) -> list[str]:
    """Options for models that train in seconds: the mini configurations with fewer units and epochs."""
    options = []
    for name in ("train_ctc", "train_smbr", "finetune"):
        config = yaml.safe_load((ROOT / "conf" / "mini" / f"{name}.yaml").read_text())
        config["max_epoch"] = 2 if name == "train_ctc" else 1
        if name == "train_ctc":
            config["encoder_conf"].update(hidden_size=32, num_layers=2)
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        options += [f"--{name.removeprefix('train_')}_config", str(path)]
    return options


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Options, work folder and output of a whole run."""
    folder = tmp_path_factory.mktemp("recipe")
    options = ["--corpus", "mini", "--mini_size", "20 6 6", "--workdir", str(folder / "work"), "--nj", "2"]
    options += ["--methods", "svd dirnet", "--size", "3x", *tiny(folder)]
    shown = run(*options)
    assert shown.returncode == 0, shown.stdout[-3000:]
    return options, folder / "work", shown.stdout


@pytest.mark.slow
def test_every_stage_runs_and_says_so(recipe):
    _, _, shown = recipe
    assert [int(number) for number in re.findall(r"Stage (\d+):", shown)] == list(range(11))


@pytest.mark.slow
def test_the_table_shows_what_the_stages_measured(recipe):
    _, work, shown = recipe
    lines = [line for line in shown.splitlines() if line.startswith("| ")][2:]
    table = {cells[0]: cells for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}
    assert tuple(table) == MODELS
    for model in MODELS:
        folder = work / "exp" / model
        name, params, size, ratio, per, wer, rtf, speed_up = table[model]
        for metric, shown_rate in (("per", per), ("wer", wer)):
            score = json.loads((folder / "decode_test" / f"{metric}.json").read_text())
            assert shown_rate.split()[0] == f"{score['percent']:.1f}"
        assert float(rtf) == pytest.approx(json.loads((folder / "rtf.json").read_text())["rtf_p50"], abs=1e-5)
        header = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little") + 8
        assert int(size.replace(",", "")) == (folder / "model.safetensors").stat().st_size - header
        assert (folder / "encoder.pte").stat().st_size > 0 and (folder / "model.zip").stat().st_size > 0
        assert "-" not in (per, wer, rtf, speed_up)
    for model in MODELS[1:]:
        report = json.loads((work / "exp" / model / "start/compression.json").read_text())
        assert report["reconstruction"]["utterances"] == 20
    dense, *small = (int(table[model][1].replace(",", "")) for model in MODELS)
    for params in small:
        assert dense / 3 * 0.95 < params <= dense / 3
    assert table["smbr"][3] == "1.0x" and table["dirnet_3x"][3] == "3.0x"


@pytest.mark.slow
def test_the_report_is_one_self_contained_page(recipe):
    _, work, _ = recipe
    page = (work / "exp" / "report" / "index.html").read_text()
    assert page.count("<svg") >= 4 and "dirnet_3x" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


@pytest.mark.slow
def test_a_rerun_does_nothing(recipe):
    options, work, _ = recipe
    kept = ["exp/ctc/model.json", "exp/dirnet_3x/model.safetensors", "exp/dirnet_3x/encoder.pte", "exp/smbr/model.zip",
            "exp/smbr/decode_test/per.json", "data/lang/TLG.fst", "dump/mfcc/train/feats.scp"]  # fmt: skip
    before = {name: (work / name).stat().st_mtime_ns for name in kept}
    shown = run(*options, "--stop_stage", "7")
    assert shown.returncode == 0, shown.stdout[-3000:]
    assert {name: (work / name).stat().st_mtime_ns for name in kept} == before
    assert "epoch 1:" not in shown.stdout and shown.stdout.count("already") >= 8


@pytest.mark.slow
def test_pieces_instead_of_phones(recipe, program):
    """From the same features: another inventory, its own folders, its error rate's name, and the stream's words."""
    from dirnet import recognise
    from dirnet.deploy.export import export

    options, work, _ = recipe
    options = [*options, "--token_type", "bpe", "--bpe_size", "60", "--baseline", "ctc", "--methods", ""]
    options += ["--speed_perturb_factors", "1.0 1.1"]
    before = (work / "exp/ctc/model.json").stat().st_mtime_ns
    for stages in (("1", "3"), ("6", "6")):
        shown = run(*options, "--stage", stages[0], "--stop_stage", stages[1])
        assert shown.returncode == 0, shown.stdout[-3000:]
    folder, lang = work / "exp/bpe60/ctc", work / "data/lang_bpe60"
    outputs = json.loads((folder / "model.json").read_text())["config"]["phones"]
    assert outputs == (lang / "tokens.txt").read_text().split()[:-2] and len(outputs) == 61
    read = yaml.safe_load((folder / "train.yaml").read_text())["train_shape_file"]
    assert len(Path(read[0]).read_text().splitlines()) == 40  # every utterance at both speeds
    score = json.loads((folder / "decode_test/ter.json").read_text())
    references = dict(line.split(maxsplit=1) for line in (work / "data/test/text_bpe60").read_text().splitlines())
    assert score["tokens"] == sum(len(line.split()) for line in references.values())
    assert f"TER {score['percent']:.2f} %" in shown.stdout and not (folder / "decode_test/per.json").exists()
    assert (work / "exp/ctc/model.json").stat().st_mtime_ns == before  # the phones' model is left alone
    export(folder, folder / "encoder.pte")
    audio = (work / "data/test/wav.scp").read_text().split()[1]
    streamed, whole = (
        program(recognise.main, *model, "--lang", lang, "--config", ROOT / "conf/decode.yaml", audio)
        for model in (("--pte", folder / "encoder.pte", "--quiet", "true"), ("--model", folder))
    )
    assert streamed[0] == whole[0] == 0 and streamed[1].splitlines()[0] == whole[1].splitlines()[0]
    known = {line.split()[0] for line in (lang / "lexicon.txt").read_text().splitlines()}
    assert set(whole[1].splitlines()[0].split()[1:]) <= known


@pytest.mark.slow
def test_another_corpus_needs_another_work_folder(recipe):
    _, work, _ = recipe
    shown = run("--corpus", "kaldi", "--data_root", ROOT, "--workdir", work)
    assert shown.returncode == 2 and "give --workdir for another one" in shown.stdout.splitlines()[-1]
