"""Single stages of `run.sh` with a stand-in for Python, which writes down what it is told and leaves the files."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from recipe_runs import left, run


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
    exp = f"{tmp_path / 'work' / 'exp'}/"
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
    options += ["--methods", "svd", "--size", "4x 8x", "--device", "adb:a'b", "--runner", str(program)]
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
