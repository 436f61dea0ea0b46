"""`run.sh` on a cluster: what becomes an array, on which nodes, and how it goes on; all programs are stand-ins."""

from __future__ import annotations

import os
import re
from pathlib import Path

from recipe_runs import left, run


def cluster(folder: Path) -> dict[str, str]:
    """Variables that make `cmd_backend=slurm` submit to a stand-in, which notes its options and runs the array here."""
    (folder / "bin").mkdir()
    sbatch = folder / "bin/sbatch"
    sbatch.write_text(
        f"""#!/usr/bin/env bash
echo "$@" >> {folder}/calls
for word in "$@"; do
    [[ $word != --array=* ]] || range=${{word#--array=}}
    [[ $word != --cpus-per-task=* ]] || export SLURM_CPUS_PER_TASK=${{word#*=}}
    script=$word
done
echo 1
for id in $(seq ${{range/-/ }}); do SLURM_ARRAY_TASK_ID=$id bash "$script"; done
"""
    )
    sbatch.chmod(0o755)
    return {"cmd_backend": "slurm", "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def test_stage_5_on_a_cluster_is_two_arrays(tmp_path):
    """One job a model solves, one trains, on the nodes asked for; what they said is shown."""
    program = tmp_path / "python"
    program.write_text(
        """#!/usr/bin/env bash
[ "$2" != dirnet.compression.request ] || exit 0
echo "told by ${SLURM_ARRAY_TASK_ID:-no} with $OMP_NUM_THREADS threads $*"
while [ $# -gt 1 ]; do [ "$1" != --out ] || { mkdir -p "$2"; echo > "$2/model.json"; }; shift; done
"""
    )
    program.chmod(0o755)
    left(tmp_path / "work", "data/test_sets", "dump/mfcc/train/feats.scp", "exp/smbr/model.json")
    options = ["--corpus", "mini", "--workdir", tmp_path / "work", "--python", program, "--stage", 5, "--stop_stage", 5]
    shown = run(
        *options, "--methods", "svd odl dirnet", "--size", "4x", "--ngpu", 2, OMP_NUM_THREADS="64", **cluster(tmp_path)
    )
    assert shown.returncode == 0, shown.stdout
    solve, train = (tmp_path / "calls").read_text().splitlines()
    assert "--array=1-3 " in solve and "--gres" not in solve and "--mem=8G" in solve and "--cpus-per-task=4" in solve
    assert "--array=1-3 " in train and "--gres=gpu:2" in train
    lines = [line for line in shown.stdout.splitlines() if re.match(r"told by \d", line)]
    expected = [("compress_model", method) for method in ("svd", "odl", "dirnet")]
    expected += [("espnet.train", f"{method}_4x") for method in ("svd", "odl", "dirnet")]
    for number, (line, (module, word)) in enumerate(zip(lines, expected, strict=True)):
        assert f"told by {number % 3 + 1} with 4 threads " in line and f"-m dirnet.{module} " in line and word in line


def test_an_array_goes_on_where_it_failed(tmp_path):
    """Of three models two are decoded, one is not: the next run decodes that one only."""
    program, told, refuse = tmp_path / "python", tmp_path / "told", tmp_path / "refuse"
    program.write_text(
        f"""#!/usr/bin/env bash
case "$*" in
    *dirnet.posteriors*svd*) echo "$*" >> {told}; [ ! -f {refuse} ] || {{ echo out of luck; exit 1; }} ;;
    *dirnet.posteriors*) echo "$*" >> {told} ;;
    *dirnet.asr.score*) while [ $# -gt 0 ]; do case $1 in --metric) m=$2 ;; --out) o=$2 ;; esac; shift; done
        mkdir -p $o; echo "$m of $o"; echo > $o/$m.json ;;
esac
"""
    )
    program.chmod(0o755)
    work, models = tmp_path / "work", ("smbr", "svd_4x", "dirnet_4x")
    for folder in ("data", "data/lang", "dump/mfcc/test", *(f"exp/{model}" for model in models)):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "data/test_sets").write_text("test\n")
    for file in ("data/lang/TLG.fst", "dump/mfcc/test/feats.scp", *(f"exp/{model}/model.json" for model in models)):
        (work / file).touch()
    options = ["--corpus", "mini", "--workdir", work, "--python", program, "--stage", 6, "--stop_stage", 6]
    options += ["--methods", "svd dirnet", "--size", "4x"]
    refuse.touch()
    variables = cluster(tmp_path)
    for status, decoded in ((1, models), (0, models[1:2]), (0, ())):
        told.write_text("")
        shown = run(*options, **variables)
        assert shown.returncode == status, shown.stdout
        assert re.findall(r"--model \S+/exp/(\S+) ", told.read_text()) == list(decoded)
        if status:
            log = work / "exp/log/decode.2.log"
            last = shown.stdout.splitlines()[-2:]
            assert last == [f"slurm.pl: 1 / 3 failed, log is in {log}", f"  {log}: out of luck"]
            refuse.unlink()


def test_timing_takes_turns_here_and_nodes_of_their_own_on_a_cluster(tmp_path):
    program = tmp_path / "python"
    program.write_text('#!/usr/bin/env bash\n[[ $* != *rtf* ]] || echo "told $*"\n')
    program.chmod(0o755)
    programs = [f"exp/{model}/encoder.pte" for model in ("smbr", "svd_4x", "dirnet_4x")]
    left(tmp_path / "work", "data/test_sets", *programs)
    options = ["--corpus", "mini", "--workdir", tmp_path / "work", "--python", program, "--stage", 8, "--stop_stage", 8]
    options += ["--methods", "svd dirnet", "--size", "4x"]
    compared = []
    for variables in ({}, cluster(tmp_path)):
        told = [line for line in run(*options, **variables).stdout.splitlines() if line.startswith("told")]
        compared.append([re.findall(r"/exp/(\S+)", line) for line in told])
    assert compared == [[["smbr", "svd_4x", "dirnet_4x"]], [["smbr", "svd_4x"], ["smbr", "dirnet_4x"]]]
    assert "--exclusive" in (tmp_path / "calls").read_text()
