"""The paper's tables beside measured ones: two blocks, each row with its origin; experiments run and resumed."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from dirnet import paper
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.report import paper_rows, paper_text
from dirnet.report.published import published

GIVEN: dict[str, str] = {}


def ptb_results(work, **changes):
    """`exp/report/results.json` as the language-model recipe leaves it."""
    rows = []
    for name, ratio, ppl in (("lm", 1.0, 90.0), ("dense_1x", 1.0, 80.0), ("svd_2x", 2.0, 80.2), ("svd_6.7x", 6.7, 95.0),
                             ("dirnet_2x", 2.0, 79.0), ("dirnet_6.7x", 6.7, 80.3)):  # fmt: skip
        rows.append({"model": name, "recurrent_weights": int(1000 / ratio), "ratio": ratio, "ratio_all": ratio / 2,
                     "perplexity": [ppl, ppl - 2, ppl + 2], "speed_up": ratio, "speed_up_int8": None})  # fmt: skip
    facts = {"data": "ptb", "model": "2x650 lstm", "seed": 3, "commit": "abc", "device": "a chip"}
    (work / "exp/report").mkdir(parents=True)
    facts |= {"command": "./run.sh x", **changes}
    (work / "exp/report/results.json").write_text(json.dumps({"facts": facts, "rows": rows}))
    return work


def bench_results(folder):
    folder.mkdir()
    lines, tasks = [], [("dense", "1x", 1000, 10), ("svd", "7.9x", 127, 14), ("dirnet", "7.9x", 127, 10)]
    for method, size, params, errors in [*tasks, ("dirnet", "16x", 62, 12)]:
        for seed in (0, 1):
            lines.append({"method": method, "size": size, "seed": seed, "stage": "after", "params": params,
                          "hours": 2.1, "word_errors": [errors, errors + seed], "words": [50, 50],
                          "phone_errors": [1, 1], "phones": [90, 90], "commit": "abc", "device": "a chip"})  # fmt: skip
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sweep_results(folder):
    folder.mkdir()
    common = {"setting": {"model": "0" * 64, "seed": 0, "set": "data/test/text"}, "commit": "abc", "device": "a chip",
              "dense": "3x8 lstm"}  # fmt: skip
    widths = [("dense", -1, 900, 20.0), ("svd 7 8", 0, 500, 22.0), ("dirnet 7 8", 0, 499, 21.0)]
    rows = [{"key": k, "x": x, "params": p, "wer": wer, "f_score": 0.5, **common} for k, x, p, wer in widths]
    (folder / "widths.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for what, values in (("vartheta", (0.1, 1e7)), ("gamma", (0.4,))):
        rows = [{"key": f"{what} {x:g}", "x": x, "params": 9, "wer": 1, "f_score": 0.25, **common} for x in values]
        (folder / f"{what}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def blocks(path) -> tuple[str, str]:
    """What stands under `## Paper`, and under `## Measured here`."""
    theirs, ours = re.fullmatch(r"# .*?## Paper(.*)## Measured here(.*)", path.read_text(), re.DOTALL).groups()
    return theirs, ours


def test_table_1_is_collected_in_two_blocks(program, tmp_path):
    work = ptb_results(tmp_path / "w")
    status, _, error = program(paper.main, "table1", "--results", work, "--out", tmp_path / "out")
    assert status == 0, error
    theirs, ours = blocks(tmp_path / "out/table1.md")
    assert "| DirNet | 0.7M | 6.7x | 6.4x | 81.5 |" in theirs and "dirnet_6.7x" not in theirs
    assert "81.5" not in ours
    kept, fixed = ours.split("R = 6.7x:")
    assert "| dirnet_6.7x | DirNet | 149 | 6.7x | 3.4x | 80.30 [78.3, 82.3] | 6.7x | - | [1] |" in kept
    assert "| svd_2x | LSTM-SVD |" in kept and "svd_6.7x" not in kept  # 0.25 % above the control, 18.8 %
    assert "| svd_6.7x |" in fixed and "_2x" not in fixed
    said = "* [1] data: ptb; model: 2x650 lstm; seeds: 3; commit: abc; device: a chip; command: `./run.sh x`"
    assert said in fixed
    told = json.loads((tmp_path / "out/table1.json").read_text())
    assert told["paper"] == json.loads(json.dumps(published("table1")))
    assert all(row["origin"]["command"] == "./run.sh x" for row in told["measured"])
    assert (tmp_path / "out/table1.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_recorded_is_not_overwritten(program, tmp_path):
    work = ptb_results(tmp_path / "w", seed=4)
    given = ("--seeds", "9", "--model", "x")
    status, _, error = program(paper.main, "table1", "--results", work, "--out", tmp_path, *given)
    assert status == 0, error
    assert "model: 2x650 lstm; seeds: 4" in (tmp_path / "table1.md").read_text()


def test_results_without_a_score_are_named(program, tmp_path):
    work = ptb_results(tmp_path / "w")
    path = work / "exp/report/results.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"rows": [row | {"perplexity": None} for row in told["rows"]]}))
    status, _, error = program(paper.main, "table1", "--results", work, "--out", tmp_path)
    assert status == 2 and "holds no score of table1; run the experiment to its end" in error


def test_a_tolerance_decides_what_a_loss_is(tmp_path):
    rows = paper_rows.table1(ptb_results(tmp_path), GIVEN)
    both = {"dirnet": 6.7, "svd": 6.7}
    for tolerance, kept in ((0.0, {"dirnet": 2.0}), (0.5, both | {"svd": 2.0}), (50, both)):
        control, *best = paper_rows.halves(rows, 6.7, tolerance)[0]
        assert control.label == "dense_1x" and {row.method: row.ratio for row in best} == kept


def test_table_2_pools_seeds(program, tmp_path):
    folder = bench_results(tmp_path / "bench")
    options = ("--results", folder, "--out", tmp_path, "--model", "3x256 LSTM", "--command", "python -m bench.accuracy")
    status, _, error = program(paper.main, "table2", *options)
    assert status == 0, error
    kept, fixed = blocks(tmp_path / "table2.md")[1].split("R = 7.9x:")
    assert "| dirnet 7.9x | DirNet | 127 | 7.9x | 7.9x | 20.50 [20.0, 21.0] |" in fixed  # (10 + 10 + 10 + 11) / 200
    assert "| svd 7.9x |" in fixed and "16x" not in fixed and "dirnet 7.9x" in kept
    assert "model: 3x256 LSTM; seeds: 0, 1; commit: abc" in fixed and "`python -m bench.accuracy`" in fixed


def test_every_test_set_has_its_own_control():
    origin = paper_rows.Origin(*["x"] * 6)
    rows = [paper_rows.Measured(method, error, origin, 100, ratio, ratio, control=method == "dense",
                                label=f"{method} {data}", data=data)
            for data, errors in (("easy", (3.0, 3.1)), ("hard", (10.0, 12.0)))
            for method, ratio, error in zip(("dense", "svd"), (1.0, 7.9), errors, strict=True)]  # fmt: skip
    easy, hard = "\n".join(paper_text._halves(rows, [origin], 7.9, 5.0, "WER")).split("Set hard:")
    assert easy.startswith("Set easy:") and easy.count("| svd easy |") == 2 and "hard" not in easy
    assert hard.count("| svd hard |") == 1 and "No size measured of svd keeps the WER of dense hard." in hard


def test_table_2_without_word_errors(program, tmp_path):
    folder = bench_results(tmp_path / "bench")
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    plain = [{name: value for name, value in row.items() if "word" not in name} for row in lines]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    status, _, error = program(paper.main, "table2", "--results", folder, "--out", tmp_path, "--metric", "wer")
    assert status == 2 and "has no word errors, as the bench had no graph; give --metric per" in error


def test_table_2_of_a_recipe_tells_the_seed_of_the_training(tmp_path):
    exp, config = tmp_path / "work/exp", AcousticModelConfig("lstm", 8, 1, phones=("<blank>", "a"), num_outputs=2)
    for name in ("smbr", "dense_1x"):
        storage.save(AcousticModel(config), exp / name)
        (exp / name / "decode_test").mkdir()
        score = {"percent": 12.0, "percent_low": 11.0, "percent_high": 13.0}
        (exp / name / "decode_test/wer.json").write_text(json.dumps(score))
    made_of = storage.describe(exp / "smbr")["sha256"]
    storage.save(AcousticModel(config), exp / "dense_1x/start", {"compression": {"dense_sha256": made_of}})
    (exp / "smbr/config.yaml").write_text("seed: 7\n")
    dense, control = paper_rows.table2(exp.parent, GIVEN)
    assert (dense.origin.seeds, control.origin.seeds) == ("7", "not recorded") and control.control


def test_table_3_and_figure_3(program, tmp_path):
    folder = sweep_results(tmp_path / "sweep")
    for what in ("table3", "fig3"):
        status, _, error = program(paper.main, what, "--results", folder, "--out", tmp_path)
        assert status == 0, error
    theirs, ours = blocks(tmp_path / "table3.md")
    assert theirs.count("M | ") == 9 and "| 25, 35, 45, 50, 55 | 1.3M | 16.6 | 12.9 |" in theirs
    assert "| 7 8 | 350, 375, 395, 405, 410 | 500 | 22.00 | 21.00 | [1] |" in ours
    assert "| dense | 500, 500, 500, 500, 500 | 900 | 20.00 | 20.00 | [1] |" in ours
    assert ours.count("Not measured:") == 1 and "model: 3x8 lstm" in ours
    theirs, ours = blocks(tmp_path / "fig3.md")
    assert "| gamma | 1e-06 to 1 | 0.4 |" in theirs and "0.25" not in theirs
    assert "| 1e+07 | 9 | 0.250 | [1] |" in ours


def test_an_experiment_is_run_through_cmd_and_its_command_told(program, tmp_path, monkeypatch):
    work, told = tmp_path / "w", []

    def run(command, cwd):
        told.append((command, cwd))
        if not (work / "exp").exists():
            ptb_results(work, command="")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(paper.subprocess, "run", run)
    options = ("table1", "--results", work, "--out", tmp_path, "--cmd", "utils/slurm.pl --mem 4G")
    (tmp_path / "text").mkdir()
    monkeypatch.chdir(tmp_path)
    status, _, error = program(paper.main, *options, "--", "--size", "2x 6.7x")
    assert status == 0, error
    command, home = told[0]
    assert home.name == "ptb_dirnet" and command[:3] == ["utils/slurm.pl", "--mem", "4G"]
    assert command[3:] == [f"{work}/log/paper_table1.log", "./run.sh", "--size", "2x 6.7x", "--workdir", str(work)]
    assert f"command: `./run.sh --size '2x 6.7x' --workdir {work}`" in (tmp_path / "table1.md").read_text()
    assert program(paper.main, *options, "--", "--data", "./text")[0] == 0
    assert told.pop()[0][-3] == str(tmp_path / "text")  # from here, not from the recipe's folder
    assert program(paper.main, *options, "--", "--size", "2x 6.7x")[0] == 0 and told.pop()
    status, _, error = program(paper.main, *options[:5])  # collected again later: still known
    assert status == 0 and "'2x 6.7x'" in (tmp_path / "table1.md").read_text() and len(told) == 1


def test_figure_3_runs_two_sweeps_here(program, tmp_path, monkeypatch):
    told = []

    def run(command, cwd):
        told.append(command)
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(paper.subprocess, "run", run)
    status, _, error = program(paper.main, "fig3", "--results", tmp_path / "s", "--", "--model", "exp/smbr")
    assert status == 2 and "ended with status 2" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "s/paper_command.json").exists()
    assert told[0][1:] == ["-m", "dirnet.sweep", "vartheta", "--model", "exp/smbr", "--out", str(tmp_path / "s")]


@pytest.mark.parametrize(
    "options, message",
    [
        (["table1", "--results", "nowhere"], "--results nowhere is no folder"),
        (["table1", "--results", "."], "holds no exp/report/results.json"),
        (["table2", "--results", "."], "holds neither results.jsonl of bench.accuracy nor decoded models"),
        (["table3", "--results", "."], "widths.jsonl does not exist; run `dirnet sweep widths` first"),
        (["fig3", "--results", ".", "--cmd", "utils/run.pl"], "there are no options for one after --"),
        (["table1", "--results", "a", "b", "--", "--size", "2x"], "an experiment is run into one"),
        (["table1", "--results", ".", "--ratio", "0.5"], "--ratio is 0.5, expected 1 or more"),
        (["table3", "--results", "s", "--", "--modl", "x"], "ended with status 2; mend that and run this again"),
    ],
)
def test_mistakes_are_one_line(program, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = program(paper.main, *options)
    assert status == 2 and message in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_published_figures_are_those_of_the_paper():
    """Copied from the paper's tables once more, by hand."""
    table = {(half, method): (r, t, error) for half, method, _, r, t, error in published("table1")["rows"]}
    assert table["fixed", "LSTM-SVD"] == (6.7, 6.4, 87.4) and table["kept", "LSTM-ODL"] == (2.9, 2.8, 81.5)
    table = {(half, method): (r, t, error) for half, method, _, r, t, error in published("table2")["rows"]}
    assert table["fixed", "DirNet"] == (7.9, 7.6, 12.9) and table["kept", "DirNet"] == (4.3, 4.2, 12.7)
    assert len(published("table3")["rows"]) == 9
    assert published("table3")["rows"][7] == [[30, 45, 55, 65, 75], "1.7M", 14.4, 12.9]
    assert [row[2] for row in published("fig3")["rows"]] == [1e7, 0.4]
