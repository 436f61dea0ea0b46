"""The tables of the accuracy bench against numbers worked out by hand."""

from __future__ import annotations

import json

from bench import accuracy_table


def row(method, size, seed, stage, errors, params):
    return {
        "method": method, "size": size, "seed": seed, "stage": stage, "params": params, "bytes": 4 * params,
        "phone_errors": errors, "phones": [10, 20, 10], "commit": "abc", "device": "cpu", "torch": "2", "hours": 1.0,
    }  # fmt: skip


def test_rates_are_pooled_over_seeds_and_compared_in_pairs(program, tmp_path):
    rows = [row("dense", "1x", seed, stage, [1, 2, 1], 800) for seed in (0, 1) for stage in ("before", "after")]
    for seed, errors in ((0, [2, 2, 2]), (1, [2, 4, 4])):
        rows += [row("svd", "8x", seed, "before", [9, 9, 9], 100), row("svd", "8x", seed, "after", errors, 100)]
    torn = json.dumps(rows[-1])[:40]  # by a killed bench
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + torn)
    status, shown, _ = program(accuracy_table.main, tmp_path)
    assert status == 0 and "3 test utterances" in shown and "commit abc" in shown
    line = next(line for line in shown.splitlines() if line.startswith("| svd"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:5] == ["100", "8.00", "400", "8.00"] and cells[-1] == "2"
    assert cells[6].startswith("20.00 [")  # (6 + 10) errors of 2 x 40 phones
    assert cells[7].startswith("+100.0 % [")  # 16 errors against 8
    status, shown, _ = program(accuracy_table.main, tmp_path, "--control", "svd")
    line = next(line for line in shown.splitlines() if line.startswith("| dense"))
    assert "-50.0 % [" in line and "PER against svd" in shown
    status, _, error = program(accuracy_table.main, tmp_path, "--control", "svdd")
    assert status == 2 and "--control is 'svdd', expected a method of" in error and "dense, svd" in error
    low, high = accuracy_table.rate({0: rows[0], 1: rows[2]}, "phone_errors", "phones")[1:]
    assert low == high == 10.0  # every utterance has the same rate


def test_seeds_are_drawn_where_it_is_asked_for(program, tmp_path):
    """Seeds that differ, utterances that do not: only an interval over seeds is wide, from best to worst."""
    rows = [row("dense", "1x", seed, stage, [1, 2, 1], 800) for seed in (0, 1, 2) for stage in ("before", "after")]
    for seed, errors in ((0, [2, 4, 2]), (1, [3, 6, 3]), (2, [4, 8, 4])):
        rows += [row("svd", "8x", seed, stage, errors, 100) for stage in ("before", "after")]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for options, found, change in (
        ((), "30.00 [30.00, 30.00]", "+200.0 % [+200.0, +200.0]"),
        (("--redraw_seeds",), "30.00 [20.00, 40.00]", "+200.0 % [+100.0, +300.0]"),
    ):
        shown = program(accuracy_table.main, tmp_path, *options)[1]
        assert f"| {found} | {change} |" in next(line for line in shown.splitlines() if line.startswith("| svd"))


def test_a_control_with_more_seeds_is_compared_over_those_of_both(program, tmp_path):
    rows = [row("dense", "1x", seed, stage, [1, 2, 1], 800) for seed in (0, 1) for stage in ("before", "after")]
    rows += [row("odl", "8x", 0, stage, [9, 9, 9], 100) for stage in ("before", "after")]
    rows += [row(name, "8x", 1, stage, errors, 100) for stage in ("before", "after")
             for name, errors in (("svd", [2, 4, 2]), ("odl", [1, 2, 1]))]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shown = program(accuracy_table.main, tmp_path, "--control", "odl")[1]
    line = next(line for line in shown.splitlines() if line.startswith("| svd"))
    assert "| +100.0 % [+100.0, +100.0] |" in line and line.endswith("| 1 |")


def test_words_are_compared_in_pairs_too(program, tmp_path):
    rows = [row(name, size, 0, stage, [1, 2, 1], 100) | {"word_errors": words, "words": [5, 5, 10]}
            for name, size, words in (("dense", "1x", [1, 1, 2]), ("svd", "8x", [2, 2, 4]))
            for stage in ("before", "after")]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    line = next(line for line in program(accuracy_table.main, tmp_path)[1].splitlines() if line.startswith("| svd"))
    assert line.endswith("| 40.00 [40.00, 40.00] | +100.0 % [+100.0, +100.0] | 1 |") and "| +0.0 % [" in line


def test_a_folder_without_results_is_refused(program, tmp_path):
    status, _, error = program(accuracy_table.main, tmp_path)
    assert status == 2 and "run bench/accuracy.py first" in error
    (tmp_path / "results.jsonl").touch()
    status, _, error = program(accuracy_table.main, tmp_path)
    assert status == 2 and "holds no results yet" in error


def test_a_row_is_of_the_seeds_that_have_come_to_their_end(program, tmp_path):
    rows = [row("svd", "8x", 0, stage, [2, 4, 2], 100) for stage in ("before", "after")]
    rows.append(row("svd", "8x", 1, "before", [8, 16, 8], 100))
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    line = next(line for line in program(accuracy_table.main, tmp_path)[1].splitlines() if line.startswith("| svd"))
    assert line.count("| 20.00 [20.00, 20.00] |") == 1 and "| 20.00 [20.00, 20.00] | 20.00 [20.00, 20.00] |" in line


def test_a_method_of_two_sizes_has_a_row_in_each_table(program, tmp_path):
    rows = [row("dense_int8", size, 0, stage, errors, params)
            for size, errors, params in (("1x", [1, 2, 1], 800), ("4x", [5, 10, 5], 200))
            for stage in ("before", "after")]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "50.00 [50.00, 50.00]" in program(accuracy_table.main, tmp_path)[1]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:2]))
    assert "10.00 [10.00, 10.00]" in program(accuracy_table.main, tmp_path)[1]
