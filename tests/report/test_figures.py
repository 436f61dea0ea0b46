"""What the figures say, read back from the SVG's text."""

from __future__ import annotations

import re

import pytest
import torch

from dirnet.report import figures, speed_figures
from dirnet.report.palette import Palette
from dirnet.report.results import Codes, ErrorRate, Row


def row(name: str, method: str, megabytes: float, per: float | None = None, **more) -> Row:
    rate = None if per is None else ErrorRate(per, per - 1, per + 1)
    return Row(name, method, 1000, int(1e6 * megabytes), 1.0, per=rate, **more)


def palette(rows: list[Row]) -> Palette:
    return Palette({row.name: row.method for row in rows})


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_sizes_of_a_method_are_one_curve():
    rows = [row("smbr", "smbr", 4, 10), *(row(f"svd_{size}x", "svd", 4 / size, 10 + size) for size in (4, 8, 16))]
    told = words(figures.size_against_error(rows, palette(rows)))
    assert told.count("svd") == 1 and told.count("smbr") == 1 and {"0.2", "0.5", "1", "2", "5"} <= set(told)
    assert figures.size_against_error([row("smbr", "smbr", 4)], palette(rows)) is None


def test_one_size_alone_has_ticks_on_both_sides():
    only = [row("smbr", "smbr", 0.3, 10)]
    assert {"0.2", "0.5"} <= set(words(figures.size_against_error(only, palette(only))))


def line(chunk: int, us: float, dtype: str = "fp32", cache: str = "hot") -> dict:
    return {"chunk": chunk, "dtype": dtype, "cache": cache, "us_per_frame": {"p50": us}}


def test_speed_by_chunk_takes_the_fastest_engine_of_each():
    lines = [line(8, 5.0), line(1, 9.0), line(8, 3.0), line(1, 1.0, cache="cold")]
    assert speed_figures.fastest([each for each in lines if each["cache"] == "hot"]) == {1: 9.0, 8: 3.0}
    dense = row("smbr", "smbr", 4, timing={"engines": [*lines, line(1, 4.0, "int8")], "baseline": "exp/smbr"})
    small = row("svd", "svd", 1, timing={"engines": lines}, groups=[{"name": "x"}])
    control = row("dense_1x", "dense", 4, dense=True, timing={"engines": lines}, groups=[{"name": "x"}])
    rows = [dense, small, control]
    told = words(speed_figures.speed_against_chunk(rows, palette(rows)))
    assert {"fastest dense fp32", "fastest dense int8", "svd", "1", "8"} <= set(told) and "dense_1x" not in told
    once = [row("svd", "svd", 1, timing={"engines": [line(1, 2.0)]})]
    assert speed_figures.speed_against_chunk(once, palette(once)) is None


def test_whiskers_reach_from_the_fastest_call_to_the_percentile():
    timing = {"us_per_frame": {"min": 90.0, "p50": 100.0, "p95": 150.0}}
    timed = [row("svd", "svd", 1, rtf=0.01, timing=timing)]
    assert speed_figures.spread(timed[0]) == pytest.approx((0.009, 0.015))
    assert "0.010000" in words(speed_figures.real_time_factors(timed, palette(timed)))


def test_curves_of_the_dense_model_follow_each_other():
    ctc = [{"epoch": e, "train": {"loss_ctc": 9 / e}, "dev": {"loss_ctc": 10 / e, "per": 1 / e}} for e in (1, 2)]
    smbr = [{"epoch": 1, "train": {"smbr_acc": 0.9}, "dev": {"smbr_acc": 0.8, "per": 0.4}}]
    told = words(figures.baseline_curves([("ctc", ctc), ("smbr", smbr)], Palette({})))
    assert told.count("ctc, dev") == 2 and told.count("ctc, train") == 1
    assert told.count("smbr, dev") == 2 and told.count("smbr, train") == 1 and "expected accuracy, %" in told
    assert figures.baseline_curves([("ctc", [])], Palette({})) is None
    assert figures.baseline_curves([], Palette({})) is None


def test_one_epoch_is_a_whole_number():
    curves = [{"epoch": 1, "train": {"loss": 3.0, "smbr_acc": 0.9}, "dev": {"loss": 2.0, "smbr_acc": 0.8}}]
    tuned = [row("dirnet_4x", "dirnet", 1, curves=curves)]
    for svg in (
        figures.training_curves(tuned, palette(tuned)),
        figures.baseline_curves([("smbr", curves)], Palette({"smbr": "smbr"})),
    ):
        told = words(svg)
        assert "1" in told and not [word for word in told if word.startswith(("0.9", "1.0"))]


def test_heat_maps_only_where_codes_are_sparse():
    sparse = [Codes("input", torch.rand(3, 4), (30, 40), 0.125), Codes("hidden_l0", torch.rand(3, 4), (30, 40), 1.0)]
    drawn = figures.code_heat_maps(row("dirnet", "dirnet", 1, codes=sparse))
    assert "input: 12% kept" in words(drawn) and drawn.count("<image") == 2
    assert figures.code_heat_maps(row("svd", "svd", 1, codes=sparse[1:])) is None


def page_of_figures() -> tuple[list[Row], dict[str, str]]:
    """Rows of everything that is measured, and every figure of the page."""
    groups = [{"name": "rnn.input", "atoms": 4, "density": 0.5}, {"name": "rnn.hidden_l0", "atoms": 5, "density": 0.2}]
    timing = {"us_per_frame": {"min": 90.0, "p50": 100.0, "p95": 150.0}, "engines": [line(1, 9.0), line(8, 3.0)]}
    curves = [{"epoch": e, "train": {"loss": 9 / e}, "dev": {"loss": 9 / e, "per": 0.5, "loss_ctc": 9}} for e in (1, 2)]
    codes = [Codes("input", torch.rand(3, 4), (30, 40), 0.125)]
    told = {"timing": timing, "rtf": 0.001, "curves": curves}
    rows = [
        row("smbr", "smbr", 4, 10, **told | {"timing": timing | {"baseline": "exp/smbr"}}),
        *(row(f"{method}_{size}x", method, 4 / size, 10 + size, groups=groups, codes=codes, **told)
          for size in (4, 8) for method in ("svd", "dirnet")),
    ]  # fmt: skip
    looks = palette(rows)
    return rows, {
        "size": figures.size_against_error(rows, looks),
        "rtf": speed_figures.real_time_factors(rows, looks),
        "speed": speed_figures.speed_against_chunk(rows, looks),
        "atoms": figures.atoms_and_density(rows, looks),
        "dense": figures.baseline_curves([("smbr", curves)], looks),
        "tuning": figures.training_curves(rows[1:], looks),
        "codes": figures.code_heat_maps(rows[1]),
    }


def test_a_method_has_one_colour_in_all_figures():
    rows, drawn = page_of_figures()
    for name, method in (("dirnet", "dirnet"), ("svd", "svd"), ("smbr", "smbr")):
        color = palette(rows).method(method).color
        shown = {figure for figure, svg in drawn.items() if color in svg}
        assert shown >= ({"size", "rtf", "speed", "dense"} if name == "smbr" else {"size", "rtf", "speed", "atoms",
                                                                                  "tuning"})  # fmt: skip
    alone = figures.training_curves([rows[2]], palette(rows))  # the second method, though first in its figure
    assert palette(rows).method("dirnet").color in alone and palette(rows).method("smbr").color not in alone


def test_every_axis_says_what_it_shows_in_type_that_can_be_read():
    _, drawn = page_of_figures()
    for figure, labels in {
        "size": ("stored size, MB with indices (log scale)", "PER, % (95 % interval)"),
        "rtf": ("real-time factor, s of computation per s of audio, median (lower is faster)",),
        "speed": ("outputs per call T (log scale; the longer, the more delay)",
                  "µs per output frame, median (log scale)"),
        "atoms": ("atoms p", "density of Z, %", "group of matrices"),
        "dense": ("errors of the best path, %", "CTC loss per utterance, nats", "epoch"),
        "tuning": ("epoch", "loss per utterance"),
        "codes": ("atoms (rows of Z)", "gates (columns of Z)"),
    }.items():  # fmt: skip
        assert set(labels) <= set(words(drawn[figure])), figure
        assert min(float(size) for size in re.findall(r"font(?:-size)?: ?(\d+(?:\.\d+)?)px", drawn[figure])) >= 9
