"""Counts of work, and cost models that are refused where they do not belong."""

import dataclasses
import json

import pytest

from dirnet.errors import UserError
from dirnet.nn import running
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.grouping import groups_of
from dirnet.nn.running import (
    CostModel,
    frame_seconds,
    group_counts,
    group_shapes,
    is_timed,
    load_cost_model,
    model_counts,
)

PHONES = tuple(f"p{n}" for n in range(7))


def config(**changes):
    return AcousticModelConfig("lstm", 12, 3, PHONES, feature_size=5, context=1, num_outputs=7, **changes)


def test_shapes_are_those_of_the_groups():
    for cell in ("lstm", "gru", "rnn"):
        found = group_shapes(dataclasses.replace(config(), rnn_type=cell))
        groups = groups_of(AcousticModel(dataclasses.replace(config(), rnn_type=cell)).rnn)
        assert [(rows, columns) for rows, columns, _ in found] == [(g.rows, g.columns) for g in groups]
        assert [recurrent for *_, recurrent in found] == [0, 0.5, 0.5, 1]


def test_every_value_is_counted_once():
    """Per frame a stored value is one multiply-add, wherever it runs."""
    counts = model_counts(config())
    dense = sum(p.numel() for n, p in AcousticModel(config()).named_parameters() if "bias" not in n)
    assert counts["dense_single"] + counts["dense_tiled"] == dense
    assert counts["dense_single"] == 3 * 12 * 48  # the three recurrent matrices
    layout = ((4, 10), (3, 6), (None, 8), (5, None))
    counts = model_counts(config(compression=layout, block=4))
    codes = {name: value for name, value in counts.items() if name.startswith("codes")}
    assert codes == {"codes4_tiled": 4 * 10 + 4 * (6 + 8) / 2, "codes4_single": 4 * (6 + 8) / 2}
    assert counts["dense_single"] == 3 * 12 + 5 * 12 + 5 * 48 and counts["lstm_units"] == 36
    assert counts["columns_single"] == (96 / 4 + 96 / 4) / 2


def test_every_run_of_256_rows_has_its_columns():
    for rows, number in ((256, 1), (257, 2), (512, 2), (600, 3)):
        counts = group_counts(rows, 96, None, 960, 8, 0.5)
        assert counts == {f"codes8_{mode}": 480 for mode in ("single", "tiled")} | {
            f"columns_{mode}": number * 6 for mode in ("single", "tiled")
        }


def test_bits_instead_of_row_numbers_are_counted_where_they_are_stored():
    """A place each, of single codes, of which int8 ones then run as dense ones; few cost less as numbers."""
    for nonzeros, block, places in ((48, 1, None), (384, 1, 2304), (384, 8, None), (384, 3, 2304), (None, 1, None)):
        counts = group_counts(32, 96, 24, nonzeros, block, 0.5, int8=True)
        assert counts.get("int8_masked") == places
        if places:
            del counts["int8_masked"]
            assert counts == group_counts(32, 96, 24, None, block, 0.5, int8=True)
    assert group_counts(32, 96, 24, 384, 1, 0.25) == {
        "dense_single": 32 * 24, "masked_single": 24 * 96 / 4, "masked_tiled": 24 * 96 * 3 / 4,
    }  # fmt: skip
    assert not any("masked" in name for name in group_counts(32, 96, 24, 48, 1, 0.5))


def test_int8_runs_at_rates_of_its_own():
    """The same work under other names; cells, windows and the output layer stay float."""
    layout = ((4, 10), (3, 6), (None, 8), (5, None))
    float32, int8 = (model_counts(config(compression=layout, block=4, dtype=name)) for name in ("float32", "int8"))
    renamed = {name.removeprefix("int8_"): count for name, count in int8.items() if name.startswith("int8_")}
    rest = {name: count for name, count in int8.items() if not name.startswith("int8_")}
    assert rest == running.rest_counts(config())
    assert renamed == {name: count - rest.get(name, 0) for name, count in float32.items() if count > rest.get(name, 0)}


def test_a_block_unknown_to_the_kernels_costs_what_it_is_cut_into():
    assert group_counts(8, 48, 4, 24, 12, 1.0)["codes4_single"] == 24
    assert group_counts(8, 48, 200, 24, 3, 1.0)["codes1_single"] == 24


def test_cost_models_are_checked(tmp_path):
    model = CostModel("a processor", 1, 16, {"layers": 1e-6, "model": 2e-6}, {"median": 0.1})
    path = tmp_path / "cost.json"
    path.write_text(model.to_json())
    assert load_cost_model(path, "a processor", 1) == model
    assert model.seconds({"layers": 3}) == 3e-6 and frame_seconds(config(frame_stride=3)) == pytest.approx(0.03)
    with pytest.raises(UserError, match="no rate for codes8_tiled; measure it anew"):
        model.seconds({"codes8_tiled": 1})
    with pytest.raises(UserError, match="measured with device 'a processor', not 'a phone'; .* --device 'a processor'"):
        load_cost_model(path, "a phone", 1)
    with pytest.raises(UserError, match="measured with threads 1, not 2"):
        load_cost_model(path, "a processor", 2)
    with pytest.raises(UserError, match="is not there; write it with `dirnet cost"):
        load_cost_model(tmp_path / "none.json", "a processor", 1)
    whole = json.loads(model.to_json())
    for text, message in (
        ("no json", "is not JSON"),
        ("[1]", "is not of format"),
        (json.dumps(whole | {"format": "x"}), "is not of format"),
        (json.dumps(whole | {"rates": {"layers": -1}}), r"rate \['layers'\] is no time"),
        (json.dumps({k: v for k, v in whole.items() if k != "chunk"}), "key 'chunk' is missing"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_cost_model(path, "a processor", 1)


def test_a_bidirectional_model_has_no_real_time_factor():
    with pytest.raises(UserError, match="bidirectional"):
        model_counts(config(bidirectional=True))


def test_what_the_counts_do_not_know_is_refused():
    for change in ({"shifts": 1}, {"input_group": "shared"}):
        assert not is_timed(config(**change))
        with pytest.raises(UserError, match="neither shifts nor a shared input group"):
            model_counts(config(**change))
