"""Sizes in real-time factor: the cost model's prediction is at most the budget and within 2 % of it."""

import copy
import dataclasses

import pytest
import torch

import dirnet
from dirnet.compress_model import main
from dirnet.compression.budget import FS, Price, parse_size
from dirnet.compression.methods import METHODS, Method
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.running import CostModel, frame_seconds, model_counts

RATES = {
    "dense_single": 5e-11, "dense_tiled": 2e-11, "columns_single": 5e-10, "columns_tiled": 0.0, "layers": 3e-7,
    "masked_single": 6e-11, "masked_tiled": 3e-11,
    "codes1_single": 4e-10, "codes1_tiled": 6e-11, "codes8_single": 7e-11, "codes8_tiled": 2e-11,
    "lstm_units": 1e-9, "model": 5e-7, "window": 8e-12,
}  # fmt: skip
RATES |= {f"int8_{name}": 0.4 * rate for name, rate in RATES.items()} | {"int8_masked": 1e-11}
COST = CostModel("a processor", 1, 16, RATES, {})


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    config = AcousticModelConfig("lstm", 64, 2, tuple("abc"), num_outputs=3, feature_size=13, context=5, frame_stride=3)
    model = AcousticModel(config).eval()
    with torch.no_grad():
        for weight in model.rnn.parameters():
            if weight.ndim == 2:
                left, values, right = torch.linalg.svd(weight, full_matrices=False)
                scale = values.max() * torch.arange(1, len(values) + 1) ** -0.7
                weight.copy_(left @ (scale[:, None] * right))
    return model


def rtf(model):
    return COST.seconds(model_counts(model.config)) / frame_seconds(model.config)


@pytest.mark.parametrize("text", ["rtf=0.05", "RTF = 5e-2", "rtf=.05"])
def test_a_real_time_factor_is_a_size(text):
    size = parse_size(text)
    assert (size.kind, size.unit, size.value) == ("rtf", "fs", 0.05)
    assert size.limit(10_000_000, 0.03) == pytest.approx(0.05 * 0.03 * FS)
    for nonsense in ("rtf=0", "rtf=", "rtf=-1", "rtf 0.05", "rtf=5x"):
        with pytest.raises(UserError, match="size"):
            parse_size(nonsense)


@pytest.mark.parametrize("unit", ["bytes", "fs"])
@pytest.mark.parametrize("atoms", [3, 17, 40, None])
def test_room_is_all_that_fits(unit, atoms):
    price = Price(unit, 48, 384, 8, 4, **({"cost_model": COST, "recurrent_share": 0.5} if unit == "fs" else {}))
    budget = price.factors(atoms, 384) + price.dense // 3
    room = price.room(atoms, budget)
    most = (atoms or 48) * 384 + 8
    assert room % 8 == 0 and price.factors(atoms, room) <= budget
    assert room == most or budget < price.factors(atoms, room + 8)
    rank = price.rank(budget)
    assert price.factors(rank, None) <= budget < price.factors(rank + 1, None) + 2


@pytest.mark.parametrize("method", ["svd", *(Method(name, block=8) for name in ("odl", "prune", "dirnet"))], ids=str)
def test_the_budget_is_kept_and_used(dense, method):
    asked = 0.6 * rtf(dense)
    model, report = dirnet.compress(copy.deepcopy(dense), f"rtf={asked:.9f}", method, progress=False, cost_model=COST)
    step = 0.06 * asked if method == "svd" else 0  # of a rank of the smallest group
    assert 0.98 * asked - step <= rtf(model) <= asked * (1 + 1e-6)
    assert report["rtf"] == {"dense": rtf(dense), "compressed": rtf(model)}
    assert list(report["limit"]) == ["rtf"]


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("method", ["dirnet", "svd"])
def test_single_codes_are_dense_where_time_counts(dense, method, dtype, part):
    """Their mask takes as long whatever it keeps: the size is kept with dense codes, and used to a rank."""
    low = COST.seconds(model_counts(dataclasses.replace(dense.config, dtype=dtype, compression=((1, None),) * 3)))
    low, high = low / frame_seconds(dense.config), rtf(dense)
    asked = low + part * (high - low) / 2
    model, report = dirnet.compress(
        copy.deepcopy(dense), f"rtf={asked:.9f}", method, dtype=dtype, progress=False, cost_model=COST
    )
    assert (0.97 if dtype == "int8" else 0.94) * asked <= rtf(model) <= asked * (1 + 1e-6)
    assert {blocks for _, blocks in model.config.compression} == {None}
    for at, (rank, _) in enumerate(layout := model.config.compression):  # and no group has room for one rank more
        more = dataclasses.replace(model.config, compression=(*layout[:at], (rank + 1, None), *layout[at + 1 :]))
        assert COST.seconds(model_counts(more)) / frame_seconds(more) > asked


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("method", ["odl", "prune", Method("prune", block=3)], ids=str)
def test_single_codes_of_others_have_no_time(dense, method, dtype):
    with pytest.raises(UserError, match="does not go with single codes of solver .*; give a block of 8"):
        dirnet.compress(copy.deepcopy(dense), "rtf=0.0001", method, dtype=dtype, cost_model=COST)


def test_what_the_cost_model_does_not_know_gets_no_prediction():
    model = AcousticModel(AcousticModelConfig("lstm", 13, 1, tuple("abc"), num_outputs=3, feature_size=13, context=0))
    methods = (Method("dirnet", shifts=1), Method("dirnet", input_group="shared"), METHODS["dirnet_paper"])
    for method in methods:
        assert "rtf" not in dirnet.compress(copy.deepcopy(model), "1.3x", method, progress=False, cost_model=COST)[1]
        with pytest.raises(UserError, match="size 'rtf=0.05' does not go with (shifts 1|input_group shared)"):
            dirnet.compress(copy.deepcopy(model), "rtf=0.05", method, progress=False, cost_model=COST)


def test_mistakes_are_one_line(dense, tmp_path, program):
    with pytest.raises(UserError, match="needs --cost_model"):
        dirnet.compress(copy.deepcopy(dense), "rtf=0.05")
    with pytest.raises(UserError, match=r"out of reach .*; choose from rtf=\d.* to rtf=\d"):
        dirnet.compress(copy.deepcopy(dense), "rtf=0.05", cost_model=COST)
    with pytest.raises(UserError, match="needs a unidirectional acoustic model"):
        dirnet.compress(torch.nn.LSTM(8, 8), "rtf=0.05", cost_model=COST)
    storage.save(dense, tmp_path / "dense")
    (tmp_path / "cost.json").write_text(COST.to_json())
    arguments = ("--model", tmp_path / "dense", "--size", f"rtf={0.6 * rtf(dense):.8f}", "--out", tmp_path / "out",
                 "--cost_model", tmp_path / "cost.json")  # fmt: skip
    status, _, error = program(main, *arguments)
    assert status == 2 and "was measured with device 'a processor'" in error
    status, text, _ = program(main, *arguments, "--device", "a processor", "--dry_run", "true")
    assert status == 0 and "planned rtf=" in text and "atoms, density" in text and not (tmp_path / "out").exists()
    status, _, _ = program(main, *arguments, "--device", "a processor")
    assert status == 0 and "Predicted real-time factor on a processor" in (tmp_path / "out/compression.md").read_text()
    status, text, _ = program(main, *arguments, "--device", "a processor")
    assert status == 0 and "nothing to do" in text
    other = dataclasses.replace(COST, rates=RATES | {"dense_single": 6e-11})
    (tmp_path / "cost.json").write_text(other.to_json())
    status, text, _ = program(main, *arguments, "--device", "a processor")
    assert status == 0 and "nothing to do" not in text
