"""`egs/ptb_dirnet/run.sh`: every stage on 24 sentences of the grammar, a rerun that does nothing, wrong options."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import recipe_runs
import yaml

RECIPE = recipe_runs.ROOT / "egs" / "ptb_dirnet"
MODELS = ("lm", "dense_1x", "dirnet_3x", "small_3x")


def run(*options) -> subprocess.CompletedProcess:
    """`./run.sh OPTIONS` of this recipe."""
    return recipe_runs.run(*options, recipe=RECIPE.name)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Options, work folder and output of a whole run, whose configurations lie in a folder with a blank."""
    folder = tmp_path_factory.mktemp("ptb")
    (folder / "my conf").mkdir()
    options = ["--mini_size", "24 8 8", "--workdir", str(folder / "work"), "--nj", "1"]
    for name in ("train_lm", "finetune"):
        config = yaml.safe_load((recipe_runs.ROOT / f"conf/ptb/mini/{name}.yaml").read_text()) | {"max_epoch": 1}
        if "lm_conf" in config:
            config["lm_conf"]["unit"] = 16
        path = folder / f"my conf/{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        options += [f"--{name.removeprefix('train_')}_config", str(path)]
    options += ["--methods", "dirnet small", "--size", "3x", "--reconstruct", "20"]
    shown = run(*options)
    assert shown.returncode == 0, shown.stdout[-3000:]
    return options, folder / "work", shown.stdout


@pytest.mark.slow
def test_every_stage_runs_and_the_table_shows_it(recipe):
    _, work, shown = recipe
    assert [int(number) for number in re.findall(r"Stage (\d+):", shown)] == list(range(8))
    told = json.loads((work / "exp/report/results.json").read_text())
    assert tuple(row["model"] for row in told["rows"]) == MODELS
    for row in told["rows"]:
        measured = json.loads((work / f"exp/{row['model']}/ppl_test/ppl.json").read_text())
        assert row["perplexity"][0] == measured["perplexity"] and row["words_per_second"] > 0
        assert (row["before"] is None) == (row["model"] in ("lm", "dense_1x"))
        assert (work / f"exp/{row['model']}/program.pte").stat().st_size > 0
        assert row["ratio"] == pytest.approx(3.0 if "3x" in row["model"] else 1.0, rel=0.1)
    report = json.loads((work / "exp/dirnet_3x/start/compression.json").read_text())
    assert report["reconstruction"]["utterances"] == 20
    assert "--workdir" in told["facts"]["command"] and told["facts"]["data"].startswith("mini")


@pytest.mark.slow
def test_a_rerun_does_nothing(recipe):
    options, work, _ = recipe
    kept = [f"exp/{model}/model.pth" for model in MODELS] + ["exp/dirnet_3x/ppl_test/ppl.json"]
    before = {name: (work / name).stat().st_mtime_ns for name in kept}
    shown = run(*options, "--stage", "2", "--stop_stage", "5")
    assert shown.returncode == 0, shown.stdout[-3000:]
    assert {name: (work / name).stat().st_mtime_ns for name in kept} == before
    assert "epoch 1:" not in shown.stdout and shown.stdout.count("already") >= 10


@pytest.mark.parametrize(
    "options, status, message",
    [
        (["--methodz", "svd"], 1, "invalid option '--methodz'"),
        (["--corpus", "wikitext"], 2, "--corpus is 'wikitext', expected one of: mini ptb"),
        (["--data", "/nowhere"], 2, "--data /nowhere is no folder; give the one with the three text files"),
        (["--lm_config", "conf/none.yaml"], 2, "--lm_config conf/none.yaml does not exist; correct the path"),
        (["--stage", "5", "--stop_stage", "4"], 2, "--stage 5 comes after --stop_stage 4"),
        (["--stage", "9"], 2, "--stage is '9', expected a whole number from 0 to 7"),
        (["--reconstruct", "some"], 2, "option --reconstruct is 'some', expected a whole number"),
        (["--min_count", "0"], 2, "--min_count is '0', expected a whole number from 1 to 999999"),
        (["--methods", "svd foo"], 2, "--methods: method 'foo' is not in conf/compress.yaml; "),
        (["--methods", ""], 2, "--methods is empty, so there is nothing to compress"),
        (["--size", "banana"], 2, "size 'banana' is not understood"),
        (["--methods", "svd dense_int8"], 2, "method dense_int8 keeps every value, size 6.7x is out of reach"),
        (["--methods", "prune_gradual"], 2, "method prune_gradual is not for ESPnet's models"),
        (["--size", "rtf=0.1"], 2, "size rtf=0.1 needs an acoustic model of ours; give a ratio, parameters or bytes"),
        (["all"], 1, "unexpected argument 'all'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, options, status, message):
    shown = run("--workdir", tmp_path / "work", *options)
    assert shown.returncode == status
    assert message in shown.stdout and len(shown.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "stage, missing, made_by",
    [(1, "data/.corpus", 0), (2, "data/tokens.txt", 1), (3, "exp/lm/model.pth", 2), (4, "exp/lm/model.pth", 2),
     (5, "exp/lm/model.pth", 4), (6, "exp/lm/model.pth", 4), (7, "exp/lm/model.pth", 4)],
)  # fmt: skip
def test_a_later_stage_asks_for_the_one_before(tmp_path, stage, missing, made_by):
    work = tmp_path / "work"
    shown = run("--workdir", work, "--stage", stage, "--stop_stage", stage)
    assert shown.returncode == 2
    assert shown.stdout.splitlines()[-1] == f"./run.sh: error: {work / missing} is missing; run stage {made_by} first"
