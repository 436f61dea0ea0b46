"""validate, fix, split, subset and perturb_speed as programs."""

from __future__ import annotations

import pytest

from dirnet.asr.datadir import keep, read_table


@pytest.fixture
def folder(corpus, tmp_path):
    return corpus(tmp_path / "train")


@pytest.fixture
def validate(script, program):
    module = script("utils/validate_data_dir.py")
    return lambda *arguments: program(module.main, *arguments)


@pytest.fixture
def fix(script, program):
    module = script("utils/fix_data_dir.py")
    return lambda *arguments: program(module.main, *arguments)


def test_validate_says_valid(validate, folder):
    assert validate(folder) == (0, f"{folder}: valid, 6 utterances, 2 speakers\n", "")


def test_validate_lists_every_fault_in_order_and_exits_1(validate, folder):
    lines = (folder / "text").read_text().splitlines()
    (folder / "text").write_text("\n".join([lines[1], lines[0], *lines[2:5], "spk01-002"]) + "\n")
    (folder / "audio" / "spk00-001.flac").unlink()
    status, out, error = validate(folder)
    assert status == 1 and out == ""
    listed = error.splitlines()
    assert [line.split(": ")[0] for line in listed[:3]] == [
        f"{folder}/text:2",
        f"{folder}/text:6",
        f"{folder}/wav.scp:2",
    ]
    assert listed[-1].startswith(f"{folder}: 3 faults")
    assert validate("--check_audio", "false", folder)[2].splitlines()[-1].startswith(f"{folder}: 2 faults")


def test_validate_takes_relative_paths_and_commands_by_option(validate, folder, tmp_path):
    table = (folder / "wav.scp").read_text().replace(f"{folder}/", "").splitlines()
    (folder / "wav.scp").write_text("\n".join([*table[:-1], "spk01-002 cat x |"]) + "\n")
    assert validate(folder)[0] == 1
    assert validate("--allow_pipe", "true", folder)[0] == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (folder / "audio").rename(moved / "audio")
    assert validate("--allow_pipe", "true", folder)[0] == 1
    assert validate("--allow_pipe", "true", "--data_root", moved, folder)[0] == 0


def test_fix_repairs_what_validate_finds_and_says_counts(fix, validate, folder):
    (folder / "text").write_text(
        "spk01-000 A\nspk00-000 B\nspk00-000 C\nspk00-001\nspk00-002 D\nspk01-001 E\nspk09-000 F\n\nspk01-002 G\n"
    )
    (folder / "utt2dur").write_text("".join(f"{name} 0.3\n" for name in read_table(folder / "wav.scp")))
    (folder / "spk2gender").write_text("spk01 m\nspk00 f\nspk07 f\n")
    assert validate(folder)[0] == 1
    status, out, _ = fix(folder)
    assert status == 0
    assert f"{folder}/text: 2 lines without a usable value dropped" in out
    assert f"{folder}/text: 1 duplicate lines dropped" in out
    assert f"{folder}/text: sorted" in out
    assert f"{folder}: 5 utterances kept, 2 incomplete dropped" in out
    assert validate(folder)[0] == 0
    assert read_table(folder / "text")["spk00-000"] == "B"
    assert read_table(folder / "spk2gender") == {"spk00": "f", "spk01": "m"}
    assert (folder / ".backup" / "text").read_text().startswith("spk01-000 A")
    assert fix(folder) == (0, f"{folder}: nothing to repair\n", "")


def test_fix_keeps_utterances_that_came_after_the_features(fix, validate, folder):
    names = list(read_table(folder / "text"))
    (folder / "utt2dur").write_text("".join(f"{name} 0.3\n" for name in names[1:]))
    (folder / "utt2num_frames").write_text("".join(f"{name} 28\n" for name in [*names, "spk09-000"]))
    status, out, _ = fix(folder)
    assert status == 0 and f"{folder}/utt2dur: removed, it lacks 1 utterances" in out
    assert f"{folder}: 6 utterances kept, 0 incomplete dropped" in out and validate(folder)[0] == 0
    assert list(read_table(folder / "utt2num_frames")) == names and not (folder / "utt2dur").exists()
    assert len(read_table(folder / ".backup/utt2dur")) == 5


def test_fix_writes_a_missing_spk2utt(fix, validate, folder):
    (folder / "spk2utt").unlink()
    assert fix(folder)[0] == 0 and validate(folder)[0] == 0


def test_fix_refuses_to_leave_nothing(fix, folder):
    before = (folder / "wav.scp").read_text()
    (folder / "text").write_text("nobody HERE\n")
    status, _, error = fix(folder)
    assert status == 2 and "nothing was changed" in error
    assert (folder / "wav.scp").read_text() == before
    (folder / "text").unlink()
    assert "text does not exist" in fix(folder)[2]


def test_split(script, program, folder):
    main = script("utils/split_data_dir.py").main
    status, out, _ = program(main, folder, 4)
    assert status == 0 and "split in 4" in out
    names = [list(read_table(folder / "split4" / str(part) / "wav.scp")) for part in range(1, 5)]
    assert sum(names, []) == list(read_table(folder / "wav.scp"))
    assert program(main, folder, 7)[0] == 2


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (["--first", "2"], ["spk00-000", "spk00-001"]),
        (["--spread", "3"], ["spk00-000", "spk00-002", "spk01-001"]),
        (["--utt_list", "list"], ["spk00-002", "spk01-001"]),
        (["--spk_list", "speakers"], ["spk01-000", "spk01-001", "spk01-002"]),
    ],
)
def test_subset(script, program, validate, folder, tmp_path, monkeypatch, choice, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("spk01-001\nspk00-002 and more\n")
    (tmp_path / "speakers").write_text("spk01\n")
    status, out, _ = program(script("utils/subset_data_dir.py").main, *choice, folder, tmp_path / "part")
    assert status == 0 and f"{len(expected)} of 6 utterances" in out
    assert list(read_table(tmp_path / "part" / "text")) == expected
    assert validate(tmp_path / "part")[0] == 0
    (folder / "wav.scp").write_text((folder / "wav.scp").read_text().replace(f"{folder}/", ""))  # paths from there
    program(script("utils/subset_data_dir.py").main, *choice, folder, tmp_path / "part")
    assert validate(tmp_path / "part")[0] == 0


@pytest.mark.parametrize(
    "choice", [["--first", "0"], ["--spread", "7"], ["--utt_list", "list"], ["--utt_list", "empty"]]
)
def test_subset_mistakes(script, program, folder, tmp_path, monkeypatch, choice):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("nobody\n")
    (tmp_path / "empty").write_text("\n")
    status, _, error = program(script("utils/subset_data_dir.py").main, *choice, folder, tmp_path / "part")
    assert status == 2 and len(error.splitlines()) == 1 and not (tmp_path / "part").exists()


def test_perturb_speed(script, program, validate, folder, tmp_path):
    perturb, out = script("utils/perturb_data_dir_speed.py").main, tmp_path / "train_sp"
    table = (folder / "wav.scp").read_text().replace(f"{folder}/", "")
    (folder / "wav.scp").write_text(table)  # relative to its folder
    status, told, _ = program(perturb, folder, out, "--factors", "1.1 1 0.9")
    assert status == 0 and told == f"{out}: 18 utterances, those of {folder} at 3 speeds\n"
    assert validate(out)[0] == 0
    before, after = read_table(folder / "text"), read_table(out / "text")
    assert {name: after[name] for name in before} == before and after["sp0.9-spk00-000"] == before["spk00-000"]
    speeds = read_table(out / "utt2speed")
    assert speeds["sp1.1-spk01-002"] == "1.1" and speeds["spk01-002"] == "1"
    assert read_table(out / "utt2spk")["sp0.9-spk01-000"] == "sp0.9-spk01"
    keep(out, ["spk00-000"])  # as features do with what they cannot use
    program(perturb, folder, out, "--factors", "0.9 1.0 1.1")
    assert len(read_table(out / "text")) == 1  # made of the same: left alone
    program(perturb, folder, out, "--factors", "1.0 1.1")
    assert len(read_table(out / "text")) == 12


def test_speeds_multiply(script, program, folder, tmp_path):
    perturb = script("utils/perturb_data_dir_speed.py").main
    program(perturb, folder, tmp_path / "slow", "--factors", "0.8")
    assert program(perturb, tmp_path / "slow", tmp_path / "out", "--factors", "1.0 1.1")[0] == 0
    speeds = read_table(tmp_path / "out" / "utt2speed")
    assert speeds["sp0.8-spk00-000"] == "0.8" and speeds["sp1.1-sp0.8-spk00-000"] == "0.88"


def test_perturb_speed_of_tables_that_disagree(script, program, folder, tmp_path):
    lines = (folder / "text").read_text().splitlines(keepends=True)
    (folder / "text").write_text("".join(lines[1:]))
    status, _, error = program(script("utils/perturb_data_dir_speed.py").main, folder, tmp_path / "out")
    assert status == 2 and "1 utterances are in only one of text and utt2spk" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("factors", ["fast", "", "0.9 1.0 9"])
def test_perturb_speed_mistakes(script, program, folder, tmp_path, factors):
    perturb = script("utils/perturb_data_dir_speed.py").main
    status, _, error = program(perturb, folder, tmp_path / "out", "--factors", factors)
    assert status == 2 and f"--factors is {factors!r}, expected numbers from 0.5 to 2.0" in error
    assert not (tmp_path / "out").exists()
    assert "the folder to copy from" in program(perturb, folder, folder)[2]


@pytest.mark.parametrize("name, options", [("subset_data_dir", ["--first", "2"]), ("perturb_data_dir_speed", [])])
def test_a_folder_that_is_no_copy_is_not_replaced(script, program, folder, tmp_path, name, options):
    main, victim = script(f"utils/{name}.py").main, tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.tex").write_text("years of work")
    status, _, error = program(main, folder, victim, *options)
    assert status == 2 and f"{victim} would be replaced" in error and len(error.splitlines()) == 1
    assert [path.name for path in victim.iterdir()] == ["thesis.tex"]
    (victim / "thesis.tex").unlink()
    for _ in range(2):  # into an empty folder, and over its own
        assert program(main, folder, victim, *options)[0] == 0
        options = ["--first", "3"] if options else ["--factors", "1.0 1.1"]
