"""Programs against torch on the toy language."""

from __future__ import annotations

from bench import accuracy, program_accuracy


def test_differences_are_paired():
    """The same errors at other places differ by nothing, but not surely; two more of ten tokens everywhere do."""
    assert program_accuracy.difference([1, 2, 0], [1, 2, 0], [5, 5, 5]) == "+0.00 [+0.00, +0.00]"
    mean, _, interval = program_accuracy.difference([3, 0, 1, 0], [0, 3, 0, 1], [9, 9, 9, 9]).partition(" ")
    low, high = (float(bound) for bound in interval.strip("[]").split(","))
    assert float(mean) == 0 and low < 0 < high
    assert program_accuracy.difference([1, 0], [3, 2], [10, 10]) == "+20.00 [+20.00, +20.00]"


def test_float_and_int8_programs_make_the_errors_of_their_models(work, program):
    folders = ("--workdir", work, "--config", work / "config.yaml", "--out", work / "out")
    methods = ("--methods", "svd", "dirnet_b8_int8")
    assert program(accuracy.main, *folders, "--seeds", 0, "--device", "cpu", *methods)[0] == 0
    models = [work / f"out/{name}_3x_0" for name in ("svd", "dirnet_b8_int8")]
    status, text, _ = program(program_accuracy.main, "--workdir", work, *models)
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "_3x_0" in line]
    assert status == 0 and [row[2] for row in rows] == ["float32", "int8"]
    svd, int8 = rows
    assert svd[4] == svd[5] and svd[6] == "+0.00 [+0.00, +0.00]"
    assert abs(float(int8[4]) - float(int8[5])) < 10
