"""The options of `run.sh`: wrong ones in one line, and --help."""

from __future__ import annotations

import re
import subprocess

import pytest
from recipe_runs import RECIPE, ROOT, left, run

from dirnet.asr.tokens import MOST


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
        (["--reconstruct", "1000000"], 2, "--reconstruct is '1000000', expected a whole number from 0 to 999999"),
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
        (["--stop_stage", "99"], 2, "--stop_stage is '99', expected a whole number from 0 to 10"),
        (["--cluster", "big"], 2, "--cluster big goes with --device adb; leave it out"),
        (["--finetune_config", "conf/mfcc.conf"], 2, "config conf/mfcc.conf is not YAML"),
        (["--decode_config", "conf"], 2, "error: conf: Is a directory; correct the path"),
        (["--stage", "12"], 2, "--stage is '12', expected a whole number from 0 to 10"),
        (["--methods", "svd foo"], 2, "--methods: method 'foo' is not in conf/compress.yaml; "),
        (["--methods", ""], 2, "--methods is empty, so there is nothing to compress"),
        (["--size", "7.9x banana"], 2, "size 'banana' is not understood"),
        (["--workdir", "/proc/recipe"], 2, "the folder /proc/recipe/data cannot be made or written to"),
        (["--workdir", "a folder"], 2, "--workdir is a\\ folder , expected letters, digits, ._/"),
        (["--workdir", "a\n$(b)"], 2, "--workdir is $'a\\n$(b)' , expected letters, digits, ._/"),
        (["--workdir", "~a"], 2, "--workdir is \\~a , expected letters, digits, ._/"),
        (["--workdir", "w/JOB"], 2, "is w/JOB , expected letters, digits, ._/+=:@%~#- and no word JOB"),
        (["--workdir", "a,b"], 2, "is a\\,b , expected letters, digits, ._/+=:@%~#- and no word JOB"),
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
