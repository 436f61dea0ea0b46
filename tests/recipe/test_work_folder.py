"""One work folder holds one corpus, for one run at a time."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from recipe_runs import ROOT, left, run


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
