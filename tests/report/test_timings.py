"""The speed tables, from rtf.json as `dirnet rtf --compare` writes it."""

from __future__ import annotations

from dirnet.report import timings


def line(engine, chunk, us, cache="hot", **more):
    return {"engine": engine, "dtype": "fp32", "chunk": chunk, "cache": cache, "weight_bytes": 1_234_567,
            "us_per_frame": {"p50": us}, **more}  # fmt: skip


TIMINGS = {
    "smbr": {"program": "exp/smbr/encoder.pte", "baseline": "exp/smbr",
             "engines": [line("torch", 1, 900.0, speed_up=0.5), line("torch", 8, 300.0),
                         line("torch", 1, 990.0, "cold")]},
    "small": {"program": "exp/small/encoder.pte", "baseline": "exp/smbr",
              "engines": [line("executorch dirnet", 8, 30.0, speed_up=10.0, speed_up_int8=2.0),
                          line("executorch dirnet", 1, 50.0, speed_up=18.0, read_ratio=1.4)]},
    "old": {"engines": [{"engine": "x", "dtype": "fp32", "chunk": 1, "us_per_frame": {"p50": 7.0}}]},
    "none": {},
}  # fmt: skip


def test_engines_are_lines_and_chunks_columns():
    hot, cold = timings.tables(TIMINGS)
    assert (hot.title, cold.title) == ("hot caches", "cold caches")
    assert hot.header == ["model", "engine", "weights, kB", "T = 1", "T = 8", "read"]
    assert hot.cells == [
        ["smbr", "torch fp32", "1,235", "900.0", "300.0", "-"],  # the baseline is not compared with itself
        ["small", "executorch dirnet fp32", "1,235", "50.0 (18.0x)", "30.0 (10.0x, 2.0x)", "1.4x"],
        ["old", "x fp32", "-", "7.0", "-", "-"],
    ]
    assert cold.cells == [["smbr", "torch fp32", "1,235", "990.0", "-", "-"]]


def test_markdown_has_as_many_cells_in_every_line():
    lines = [text for text in timings.markdown(TIMINGS).splitlines() if text.startswith("|")]
    assert len(lines) == 8 and {text.count("|") for text in lines} == {7}
    assert timings.markdown({"none": {}}) == "" and timings.tables({}) == []


def test_a_busy_machine_is_told_of():
    runs = {"smbr": {"load_average": [1.94, 1, 1], "cpu_count": 2}, "small": {}}
    assert timings.load(runs) == "Load average 1.9 on 2 cores while timing."
    busier = {**runs, "small": {"load_average": [3.5, 1, 1], "cpu_count": 2}}
    assert timings.load(busier) == (
        "Load average 3.5 on 2 cores while timing: caches were shared, an idle machine is faster."
    )
    assert timings.load({"old": {"load_average": [3.5, 1, 1]}}) == "Load average 3.5 while timing."
    assert timings.load({"phone": {"load_average": None}, "none": {}}) == ""
