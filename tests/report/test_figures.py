"""What the figures say, read back from the SVG's text."""

from __future__ import annotations

import re

import pytest
import torch

from dirnet.report import figures, speed_figures
from dirnet.report.results import Codes, ErrorRate, Row


def row(name: str, method: str, megabytes: float, per: float | None = None, **more) -> Row:
    rate = None if per is None else ErrorRate(per, per - 1, per + 1)
    return Row(name, method, 1000, int(1e6 * megabytes), 1.0, per=rate, **more)


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_sizes_of_a_method_are_one_curve():
    rows = [row("smbr", "smbr", 4, 10), *(row(f"svd_{size}x", "svd", 4 / size, 10 + size) for size in (4, 8, 16))]
    told = words(figures.size_against_error(rows))
    assert told.count("svd") == 1 and told.count("smbr") == 1 and "0.25" in told
    assert figures.size_against_error([row("smbr", "smbr", 4)]) is None


def line(chunk: int, us: float, dtype: str = "fp32", cache: str = "hot") -> dict:
    return {"chunk": chunk, "dtype": dtype, "cache": cache, "us_per_frame": {"p50": us}}


def test_speed_by_chunk_takes_the_fastest_engine_of_each():
    lines = [line(8, 5.0), line(1, 9.0), line(8, 3.0), line(1, 1.0, cache="cold")]
    assert speed_figures.fastest([each for each in lines if each["cache"] == "hot"]) == {1: 9.0, 8: 3.0}
    dense = row("smbr", "smbr", 4, timing={"engines": [*lines, line(1, 4.0, "int8")], "baseline": "exp/smbr"})
    small = row("svd", "svd", 1, timing={"engines": lines}, groups=[{"name": "x"}])
    control = row("dense_1x", "dense", 4, dense=True, timing={"engines": lines}, groups=[{"name": "x"}])
    told = words(speed_figures.speed_against_chunk([dense, small, control]))
    assert {"fastest dense fp32", "fastest dense int8", "svd", "1", "8"} <= set(told) and "dense_1x" not in told
    assert speed_figures.speed_against_chunk([row("svd", "svd", 1, timing={"engines": [line(1, 2.0)]})]) is None


def test_whiskers_reach_from_the_fastest_call_to_the_percentile():
    timing = {"rtf": 0.012, "rtf_p50": 0.010, "us_per_frame": {"min": 90.0, "p50": 100.0, "p95": 150.0}}
    assert speed_figures.spread(timing) == pytest.approx((0.009, 0.015))
    assert speed_figures.spread({**timing, "rtf": 0.5}) == pytest.approx((0.009, 0.5))  # interrupted now and then
    assert speed_figures.spread({"rtf": 0.012}) == (0.012, 0.012)


def test_curves_of_the_dense_model_follow_each_other():
    ctc = [{"epoch": e, "train": {"loss_ctc": 9 / e}, "dev": {"loss_ctc": 10 / e, "per": 1 / e}} for e in (1, 2)]
    smbr = [{"epoch": 1, "train": {"smbr_acc": 0.9}, "dev": {"smbr_acc": 0.8, "per": 0.4}}]
    told = words(figures.baseline_curves([("ctc", ctc), ("smbr", smbr)]))
    assert told.count("ctc, dev") == 2 and told.count("ctc, train") == 1
    assert told.count("smbr, dev") == 2 and told.count("smbr, train") == 1 and "accuracy, %" in told
    assert figures.baseline_curves([("ctc", [])]) is None and figures.baseline_curves([]) is None


def test_heat_maps_only_where_codes_are_sparse():
    sparse = [Codes("input", torch.rand(3, 4), (30, 40), 0.125), Codes("hidden_l0", torch.rand(3, 4), (30, 40), 1.0)]
    drawn = figures.code_heat_maps(row("dirnet", "dirnet", 1, codes=sparse))
    assert "input: 12% kept" in words(drawn) and drawn.count("<image") == 2
    assert figures.code_heat_maps(row("svd", "svd", 1, codes=sparse[1:])) is None
