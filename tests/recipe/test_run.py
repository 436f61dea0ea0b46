"""`run.sh` itself: every stage on a corpus of 20 training utterances, a rerun that does nothing, and wrong options."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dirnet.asr.tokens import MOST

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "egs" / "librispeech_dirnet"
MODELS = ("smbr", "svd_3x", "dirnet_3x")


def run(*options, recipe: str = RECIPE.name, **variables) -> subprocess.CompletedProcess:
    """`./run.sh OPTIONS` in a recipe's folder with this interpreter; standard error goes with standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = ["./run.sh", "--python", sys.executable, *map(str, options)]
    folder = RECIPE.parent / recipe
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


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


def left(work: Path, *files: str) -> None:
    """Files as earlier stages would have left them in the work folder, empty but for the list of test sets."""
    for name in files:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("test\n" if name == "data/test_sets" else "")


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


def test_a_mistaken_corpus_does_not_hold_the_work_folder(tmp_path):
    shown = run("--corpus", "kaldi", "--data_root", ROOT / "conf", "--workdir", tmp_path / "work")
    assert shown.returncode == 2 and "holds no train/wav.scp" in shown.stdout
    shown = run("--corpus", "kaldi", "--data_root", ROOT, "--workdir", tmp_path / "work", "--stage", "1")
    assert "run stage 0 first" in shown.stdout and "another one" not in shown.stdout


@pytest.mark.parametrize("recipe, option", [("librispeech_dirnet", "data_root"), ("ptb_dirnet", "data")])
def test_a_corpus_is_the_same_whichever_way_its_folder_is_written(tmp_path, recipe, option):
    program, work = tmp_path / "python", tmp_path / "work"
    program.write_text("#!/usr/bin/env bash\n")
    program.chmod(0o755)
    (tmp_path / "k").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "k")
    left(work, "data/test_sets")
    relative = os.path.relpath(tmp_path / "k", ROOT / "egs" / recipe)
    name = "kaldi" if option == "data_root" else "ptb"
    options = ["--corpus", name, "--workdir", work, "--python", program, "--stage", 0, "--stop_stage", 0]
    for held in (None, f"{name} {tmp_path}/k/\n"):  # and as an earlier run with a slash left it
        if held:
            (work / "data/.corpus").write_text(held)
        for path in (f"{tmp_path}/k", f"{tmp_path}/k/", f"{tmp_path}//k/../k", relative, f"{tmp_path}/link"):
            shown = run(*options, f"--{option}", path, recipe=recipe)
            assert shown.returncode == 0, shown.stdout
            assert (work / "data/.corpus").read_text() == f"{name} {tmp_path}/k\n"
    shown = run(*options, f"--{option}", tmp_path / "other", recipe=recipe)
    assert shown.returncode == 2 and f"not '{name} {tmp_path}/other'; give --workdir" in shown.stdout


@pytest.mark.parametrize("recipe", ["librispeech_dirnet", "ptb_dirnet"])
def test_two_runs_in_one_work_folder_are_refused(tmp_path, recipe):
    """Until the first has ended, also when something that it began has not."""
    program, work = tmp_path / "python", tmp_path / "work"
    program.write_text(
        f"""#!/usr/bin/env bash
[[ $1 != -c && $2 != dirnet.compression.request ]] || exit 0
echo > {tmp_path}/begun
while [ ! -f {tmp_path}/go ]; do sleep 0.05; done
sleep 30 > /dev/null 2>&1 &
"""
    )
    program.chmod(0o755)
    left(work, "data/test_sets")
    options = ["--workdir", str(work), "--python", str(program), "--stage", "0", "--stop_stage", "0"]
    folder = ROOT / "egs" / recipe
    with subprocess.Popen(["./run.sh", "--corpus", "mini", *options], cwd=folder, stdout=subprocess.DEVNULL) as first:
        until = time.monotonic() + 30
        while not (tmp_path / "begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        options = ["--workdir", work, "--python", "true", "--stage", 1, "--stop_stage", 1, "--corpus", "mini"]
        shown = run(*options, recipe=recipe)
        assert shown.returncode == 2 and len(shown.stdout.splitlines()) == 1
        assert f"another run.sh works in --workdir {work}; wait until it has ended" in shown.stdout
        (tmp_path / "go").touch()
        assert first.wait() == 0
    assert "another run.sh" not in run(*options, recipe=recipe).stdout


@pytest.mark.parametrize(
    "options, status, message",
    [
        (["--methodz", "svd"], 1, "invalid option '--methodz'"),
        (["--stage"], 1, "option --stage has no value"),
        (["--corpus", "timit"], 2, "--corpus is 'timit', expected one of: librispeech kaldi mini"),
        (["--corpus", "kaldi"], 2, "--corpus kaldi needs --data_root DIR"),
        (["--baseline", "rnnt"], 2, "--baseline is 'rnnt', expected one of: smbr ctc"),
        (["--finetune_objective", "mmi"], 2, "--finetune_objective is 'mmi', expected one of: ctc smbr"),
        (["--smbr_order", "1"], 2, "--smbr_order is '1', expected a whole number from 2 to 9"),
        (["--decode_nj", "x"], 2, "--decode_nj is 'x', expected a whole number from 1 to 999"),
        (["--speed_perturb_factors", "0.9,1.0"], 2, "--speed_perturb_factors is '0.9,1.0', expected numbers from 0.5"),
        (["--arpa", "none.arpa"], 2, "--arpa none.arpa does not exist; correct the path"),
        (["--librispeech", "/none"], 2, "--librispeech /none does not exist; correct the path"),
        (["--device", "iphone"], 2, "--device is 'iphone', expected host, or adb with --runner"),
        (["--device", "adb:123"], 2, "expected host, or adb with --runner"),
        (["--ctc_config", "conf/none.yaml"], 2, "--ctc_config conf/none.yaml does not exist; correct the path"),
        (["--token_type", "syllable"], 2, "--token_type is 'syllable', expected one of: phn char word bpe"),
        (["--word_size", "0"], 2, "--word_size is '0', expected a whole number from 1 to 5000"),
        (["--bpe_size", f"{MOST + 1}"], 2, f"--bpe_size is '{MOST + 1}', expected a whole number from 1 to {MOST}"),
        (["--speed_perturb_factors", "0 1.0"], 2, "--speed_perturb_factors is '0 1.0', expected numbers from 0.5 to 2"),
        (["--speed_perturb_factors", "1.0 2.1"], 2, "--speed_perturb_factors is '1.0 2.1', expected numbers from 0.5"),
        (["--oov", "maybe"], 2, "--oov is 'maybe', expected one of: g2p spn error"),
        (["--stage", "3"], 2, "run stage 0 first"),
        (["--stage", "abc"], 2, "option --stage is 'abc', expected a whole number"),
        (["--stage", "5", "--stop_stage", "4"], 2, "--stage 5 comes after --stop_stage 4"),
        (["--stage", "12"], 2, "--stage is '12', expected a whole number from 0 to 10"),
        (["--methods", "svd foo"], 2, "method 'foo' is unknown"),
        (["--methods", ""], 2, "--methods is empty, so there is nothing to compress"),
        (["--size", "7.9x banana"], 2, "size 'banana' is not understood"),
        (["--workdir", "/proc/work"], 2, "the folder /proc/work/data cannot be made or written to"),
        (["--workdir", "a folder"], 2, "--workdir is a\\ folder , expected letters, digits, ._/"),
        (["--workdir", "a\n$(b)"], 2, "--workdir is $'a\\n$(b)' , expected letters, digits, ._/"),
        (["--workdir", "~a"], 2, "--workdir is \\~a , expected letters, digits, ._/"),
        (["--workdir", "w/JOB"], 2, "is w/JOB , expected letters, digits, ._/+=,:@%~#- and no word JOB"),
        (["--workdir", "a-JOB.b/c"], 2, "and no word JOB; give another"),
        (["--python", "python9"], 2, "--python 'python9' is no Python with the project's packages"),
        (["all"], 1, "unexpected argument 'all'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, options, status, message):
    shown = run("--workdir", tmp_path / "work", *options)
    assert shown.returncode == status
    assert message in shown.stdout and len(shown.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "stage, missing, made_by",
    [(3, "dump/mfcc/train/feats.scp", 1), (4, "exp/ctc/model.json", 3), (5, "exp/smbr/model.json", 4),
     (6, "exp/svd_3x/model.json", 5), (8, "exp/smbr/encoder.pte", 7), (10, "exp/svd_3x/model.json", 5)],
)  # fmt: skip
def test_a_stage_names_the_one_that_it_comes_after(tmp_path, stage, missing, made_by):
    work = tmp_path / "work"
    left(work, "data/test_sets", "dump/mfcc/train/feats.scp", "data/lang/TLG.fst")
    left(work, "exp/ctc/model.json", "exp/smbr/model.json")
    (work / missing).unlink(missing_ok=True)
    options = ["--corpus", "mini", "--workdir", work, "--methods", "svd", "--size", "3x", "--stage", stage]
    shown = run(*options)
    assert shown.returncode == 2
    assert shown.stdout == f"./run.sh: error: {work / missing} is missing; run stage {made_by} first\n"


def test_an_unknown_back_end_is_refused(tmp_path):
    shown = run("--workdir", tmp_path / "work", cmd_backend="pbs")
    assert shown.returncode == 2 and "expected local, slurm or queue" in shown.stdout


def test_help_lists_every_option():
    shown = run("--help").stdout
    head = (RECIPE / "run.sh").read_text().split("utils/parse_options.sh")[0]
    names = re.findall(r"^([a-z_]+)=", head, re.MULTILINE)
    assert len(names) > 20 and all(f"--{name} " in shown for name in names if name != "command")


@pytest.mark.parametrize("recipe", ["librispeech_dirnet", "ptb_dirnet"])
def test_help_is_there_from_any_folder(tmp_path, recipe):
    path = ROOT / "egs" / recipe / "run.sh"
    shown = subprocess.run([path, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and "  --workdir ." in shown.stdout and shown.stderr == ""
    shown = subprocess.run([path, "--stage", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 2 and shown.stderr == f"{path}: error: run it in its own folder, {path.parent}\n"


def test_run_sh_stays_readable():
    assert len((RECIPE / "run.sh").read_text().splitlines()) <= 265


def test_stage_5_gives_every_peer_its_training(tmp_path):
    """The programs of stage 5 in order, told by a stand-in for Python that only writes them down."""
    program, told = tmp_path / "python", tmp_path / "told"
    program.write_text(
        f"""#!/usr/bin/env bash
[ "$2" != dirnet.compression.request ] || exec {sys.executable} "$@"
echo "$*" >> {told}
while [ $# -gt 1 ]; do [ "$1" != --method ] || method=$2; [ "$1" != --out ] || out=$2; shift; done
[ -z "${{out:-}}" ] || {{ mkdir -p "$out" && echo "\\"solver\\": \\"${{method}}\\"" > "$out/model.json"; }}
"""
    )
    program.chmod(0o755)
    left(tmp_path / "work", "data/test_sets", "dump/mfcc/train/feats.scp", "exp/smbr/model.json")
    shown = run(
        "--corpus", "mini", "--workdir", tmp_path / "work", "--python", program, "--stage", 5, "--stop_stage", 5,
        "--methods", "dense small prune_gradual", "--size", "4x 8x", "--finetune_objective", "smbr", "--smbr_order", 3,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout
    exp = f"{tmp_path}/work/exp/"
    steps = []
    for line in told.read_text().splitlines():
        words = line.replace(exp, "").split()
        option = dict(zip(words, words[1:], strict=False))
        if "dirnet.compress_model" in words:
            steps.append(" ".join(option[name] for name in ("--method", "--size", "--out")))
        elif "dirnet.espnet.train" in words:
            start = option.get("--init") or "shape of " + option["--shape"]
            steps.append(f"{Path(option['--config']).stem} {option['--exp']} from {start}")
            assert option.get("--dense", "smbr") == "smbr" and ("--dense" in option) == ("finetune" in line)
            assert option.get("--smbr_order") == (None if "train_ctc" in option["--config"] else "3")
            assert option.get("--objective") == ("conf/mini/train_smbr.yaml" if "finetune" in line else None)
    small = [
        "small 8x small_8x/start",
        "train_ctc small_8x/ctc from shape of small_8x/start",
        "train_smbr small_8x/smbr from small_8x/ctc",
        "finetune small_8x from small_8x/smbr",
    ]
    pruned = ["prune_gradual 8x prune_gradual_8x/start", "finetune prune_gradual_8x from prune_gradual_8x/start"]
    steps_at = [[step.replace("8x", size) for step in (*small, *pruned)] for size in ("4x", "8x")]
    solved = [step for at in steps_at for step in at if step.endswith("/start") and " from " not in step]
    trained = [step for at in steps_at for step in at if step not in solved]
    assert steps == ["dense 1x dense_1x/start", *solved, "finetune dense_1x from dense_1x/start", *trained]


def test_what_is_made_at_1x_is_told_by_the_solver_and_nothing_twice(tmp_path):
    program, told, work, config = (tmp_path / name for name in ("python", "told", "work", "own.yaml"))
    program.write_text(
        f"""#!/usr/bin/env bash
[ "$2" != dirnet.compression.request ] || exec {sys.executable} "$@"
while [ $# -gt 1 ]; do
    [ "$1" != --out ] || {{ echo ${{2#*/exp/}} >> {told}; mkdir -p "$2"; echo > "$2/model.json"; }}
    shift
done
"""
    )
    program.chmod(0o755)
    config.write_text(
        "# solver: dense\ndense_mine: {solver: svd}  # not solver: dense\n'as it is':\n"
        "  solver: dense\nwhole:\n  dtype: int8\n  solver: dense  # int8\nsvd: {solver: svd}\n"
    )
    left(work, "data/test_sets", "dump/mfcc/train/feats.scp", "exp/smbr/model.json")
    shown = run(
        "--corpus", "mini", "--workdir", work, "--python", program, "--stage", 5, "--stop_stage", 5,
        "--methods", "svd dense_mine whole svd", "--size", "4x 8x 4x", "--compress_config", config,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout
    made = [line.removesuffix("/start") for line in told.read_text().splitlines() if line.endswith("/start")]
    assert made == ["whole_1x", "svd_4x", "dense_mine_4x", "svd_8x", "dense_mine_8x"]


def test_inventories_of_two_sizes_have_references_of_their_own(tmp_path):
    """What writes transcripts in tokens, trains on them and scores by them goes by the size's own file."""
    program, told, work = tmp_path / "python", tmp_path / "told", tmp_path / "work"
    program.write_text(f"#!/usr/bin/env bash\necho \"$*\" >> {told}\n")
    program.chmod(0o755)
    left(work, "data/test_sets", "dump/mfcc/train/feats.scp", "data/lang_bpe60/TLG.fst", "exp/bpe60/ctc/model.json")
    options = ["--corpus", "mini", "--workdir", work, "--python", program, "--token_type", "bpe", "--bpe_size", 60]
    for stage in (2, 3, 6):
        shown = run(*options, "--baseline", "ctc", "--methods", "", "--stage", stage, "--stop_stage", stage)
        assert shown.returncode == 0, shown.stdout
    lines = told.read_text().splitlines()
    for module in ("dirnet.asr.lexicon", "dirnet.espnet.train"):
        line = next(line for line in lines if f"-m {module} " in line)
        assert "--transcripts text_bpe60" in line
    assert any(f"--metric ter --ref {work}/data/test/text_bpe60 " in line for line in lines)


def test_the_report_is_told_the_command_as_a_shell_reads_it(tmp_path):
    program, told = tmp_path / "python", tmp_path / "told"
    program.write_text(f"#!/usr/bin/env bash\n[[ $* != *report* ]] || printf '%s\\n' \"$@\" > {told}\n")
    program.chmod(0o755)
    left(tmp_path / "work", "data/test_sets", "exp/smbr/model.json", "exp/svd_4x/model.json", "exp/svd_8x/model.json")
    options = ["--workdir", str(tmp_path / "work"), "--stage", "10"]
    options += ["--methods", "svd", "--size", "4x 8x", "--cluster", "a'b"]
    assert run("--corpus", "mini", "--python", program, *options).returncode == 0
    words = told.read_text().splitlines()
    assert shlex.split(words[words.index("--command") + 1])[-len(options) :] == options


def test_stage_7_verifies_what_it_wrote(tmp_path):
    """With a stand-in for Python whose `verify` fails while a file says so: unverified programs are not finished."""
    program, told, refuse = tmp_path / "python", tmp_path / "told", tmp_path / "refuse"
    program.write_text(
        f"""#!/usr/bin/env bash
echo "$*" >> {told}
[[ $* != *dirnet.deploy.verify* ]] || [ ! -f {refuse} ] || exit 2
while [ $# -gt 1 ]; do [ "$1" != --out ] || touch "$2"; shift; done
"""
    )
    program.chmod(0o755)
    work = tmp_path / "work"
    left(work, "data/test_sets")
    for model, compression in (("smbr", "null"), ("dirnet_3x", "[[4, 5]]")):
        (work / "exp" / model).mkdir(parents=True)
        (work / "exp" / model / "model.json").write_text(f'"compression": {compression}')
    refuse.touch()
    options = ["--corpus", "mini", "--workdir", work, "--python", program, "--stage", 7, "--stop_stage", 7]
    programs = [f"{work}/exp/{model}/encoder.pte" for model in ("smbr", "dirnet_3x")]
    for status, steps in ((2, 3), (0, 3), (0, 0)):
        told.write_text("")
        shown = run(*options, "--methods", "dirnet", "--size", "3x")
        assert shown.returncode == status, shown.stdout
        lines = [line for line in told.read_text().splitlines() if "dirnet.deploy" in line]
        assert len(lines) == steps
        if steps:
            assert "--backend xnnpack" in lines[0] and "--backend dirnet --chunk 16" in lines[1]
            assert lines[2].split()[1:] == ["dirnet.deploy.verify", *programs]
        refuse.unlink(missing_ok=True)


def test_stage_2_runs_again_after_every_change_of_what_it_reads_or_left(tmp_path):
    """With a stand-in for Python that leaves the files; what is read in its place may be older, or as long."""
    program, told, work = tmp_path / "python", tmp_path / "told", tmp_path / "work"
    program.write_text(
        f"""#!/usr/bin/env bash
case "$*" in
    *dirnet.asr.lexicon*) echo lexicon >> {told}
        for set in train dev test; do touch {work}/data/$set/text_phones; done
        touch {work}/data/lang/{{lexicon,tokens,words}}.txt {work}/data/lang/lang.json ;;
    *dirnet.asr.graph*) touch {work}/data/lang/TLG.fst ;;
esac
"""
    )
    program.chmod(0o755)
    left(work, "data/test_sets", "dump/mfcc/train/feats.scp", "data/lang/oov.txt")
    left(work, *(f"data/{name}/text" for name in ("train", "dev", "test")))
    lexicon, text = tmp_path / "my lexicon.txt", tmp_path / "a text.txt"
    options = ["--corpus", "mini", "--workdir", work, "--python", program, "--stage", 2, "--stop_stage", 2]
    options += ["--lexicon", lexicon, "--lm_text", text]

    def older(path: Path, content: str) -> None:
        path.write_text(content)
        os.utime(path, (1e9, 1e9))

    def runs_again() -> bool:
        told.write_text("")
        shown = run(*options)
        assert shown.returncode == 0, shown.stdout
        return told.read_text() == "lexicon\n"

    older(lexicon, "A B\n")
    older(text, "A A\n")
    assert runs_again() and not runs_again()
    for name in ("lang/tokens.txt", "lang/lexicon.txt", "lang/words.txt", "train/text_phones", "lang/TLG.fst"):
        (work / "data" / name).unlink()
        assert runs_again() and not runs_again(), name
    for path in (lexicon, text, work / "data/dev/text"):
        older(path, "A C\n")
        assert runs_again() and not runs_again(), path
    os.utime(lexicon)  # no change
    assert not runs_again()


def test_stage_9_packs_again_what_was_decoded_or_timed_since(tmp_path):
    program, told, work = tmp_path / "python", tmp_path / "told", tmp_path / "work"
    program.write_text(
        f"""#!/usr/bin/env bash
[[ $* == *dirnet.espnet.pack* ]] || exit 0
while [ $# -gt 0 ]; do case $1 in */exp/*) echo "${{1##*/}}" >> {told}; touch "$1/model.zip" ;; esac; shift; done
"""
    )
    program.chmod(0o755)
    left(work, "data/test_sets", "data/lang/TLG.fst", "exp/smbr/model.json", "exp/svd_3x/model.json")
    options = ["--corpus", "mini", "--workdir", work, "--python", program, "--stage", 9, "--stop_stage", 9]
    for new, packed in (((), ["smbr", "svd_3x"]), ((), []), (("exp/smbr/decode_test/wer.json",), ["smbr"]),
                        (("exp/svd_3x/rtf.json",), ["svd_3x"]), ((), []),
                        (("data/lang/lexicon.txt",), ["smbr", "svd_3x"]), ((), [])):  # fmt: skip
        left(work, *new)
        told.write_text("")
        shown = run(*options, "--methods", "svd", "--size", "3x")
        assert shown.returncode == 0 and told.read_text().split() == packed, shown.stdout
