"""What calibration changes: biases keep means, budgets follow the output, data are asked for where they lack."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.budget import parse_size
from dirnet.compression.calibration import calibrate
from dirnet.compression.groups import dense_rnns, matrix_groups
from dirnet.compression.guide import Guide, make_guide, move_biases, output_errors
from dirnet.compression.methods import METHODS, Method
from dirnet.compression.plan import make_plan
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.grouping import groups_of, scatter

FISHER = Method("dirnet", weighting="fisher")


def acoustic_model(rnn_type="lstm"):
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type=rnn_type, hidden_size=12, num_layers=2, feature_size=4, context=2, num_outputs=4, phones=tuple("-abc"),
    )  # fmt: skip
    model = AcousticModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(3.0 if "weight" in name else 1.0)
    return model


def features(seed=0, count=8):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(20, 30, (count,), generator=generator)
    mix = torch.randn(4, 4, generator=generator)
    return [(torch.randn(count, 30, 4, generator=generator) @ mix + 1, lengths)]


def divergence(model, other, data):
    """Mean Kullback-Leibler divergence per valid frame."""
    total = frames = 0
    for inputs, lengths in data:
        old, new = model(inputs, lengths)[0].detach(), other(inputs, lengths)[0].detach()
        for row, length in enumerate(lengths):
            total += float((old.exp() * (old - new))[row, :length].sum())
            frames += int(length)
    return total / frames


@pytest.mark.parametrize(
    "solver,weighting", [("svd", "activation"), ("svd", "fisher"), ("prune", "activation"), ("dirnet", "fisher")]
)
def test_the_weighted_error_is_what_a_weighted_compression_lowers(solver, weighting):
    model, data = acoustic_model(), features()
    method = Method(solver, weighting=weighting, allocation="equal")
    guide = make_guide(model, method, data)
    left = {}
    for name, chosen in (("plain", dataclasses.replace(method, weighting="none")), ("weighted", method)):
        small, _ = dirnet.compress(copy.deepcopy(model), "4x", chosen, progress=False, data=data)
        lost = [
            group.matrix - coded.matrix().detach()
            for group, coded in zip(matrix_groups(model.rnn), small.rnn.groups, strict=True)
        ]
        left[name] = sum(float(guide.weighted(at, matrix).square().sum()) for at, matrix in enumerate(lost))
    assert left["weighted"] < 0.98 * left["plain"]


@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
def test_biases_keep_the_mean_of_what_every_gate_reads(rnn_type):
    model, data = acoustic_model(rnn_type), features()
    guide = make_guide(model, FISHER, data)
    statistics, small = calibrate(model, data)["rnn"], copy.deepcopy(model)
    kept = [group.matrix * (torch.rand_like(group.matrix) < 0.5) for group in matrix_groups(model.rnn)]
    lost = [group.matrix - matrix for group, matrix in zip(matrix_groups(model.rnn), kept, strict=True)]
    (only,) = dense_rnns(small).values()
    move_biases(only, [guide.bias_step(at, matrix) for at, matrix in enumerate(lost)])
    weights = scatter(groups_of(model.rnn), kept)
    means = {"weight_ih_l0": 0, "weight_hh_l0": 1, "weight_ih_l1": 1, "weight_hh_l1": 2}
    for name, at in means.items():
        mean, bias = statistics[at].mean.float(), name.replace("weight", "bias")
        before = getattr(model.rnn, name) @ mean + getattr(model.rnn, bias)
        assert torch.allclose(weights[name] @ mean + getattr(small.rnn, bias), before, atol=1e-4)


def test_a_stack_without_biases_is_left_without():
    rnn = nn.LSTM(5, 8, 2, bias=False)
    small, _ = dirnet.compress(rnn, "2x", FISHER, progress=False, data=[torch.randn(6, 3, 5)])
    assert not any("bias" in name for name, _ in small.named_parameters())


def test_errors_at_the_output_are_those_of_a_model_with_one_group_replaced():
    model, data = acoustic_model(), features()
    method = Method("svd", allocation="output")
    plan = make_plan(model, parse_size("3x"), dataclasses.replace(method, allocation="error"))
    before = copy.deepcopy(model.state_dict())
    errors = output_errors(model, plan.groups, plan.prices, method, Guide(data))
    for at, name in enumerate(("weight_ih_l0", None, "weight_hh_l1")):
        budget = plan.prices[at].factors(3, None)
        found = errors(at, [budget, plan.prices[at].dense])
        assert found[1] == pytest.approx(0, abs=1e-4) and found[0] > 10 * abs(found[1])
        if name:
            other = copy.deepcopy(model)
            left, values, right = torch.linalg.svd(getattr(other.rnn, name).detach())
            getattr(other.rnn, name).data = left[:, :3] * values[:3] @ right[:3]
            frames = int(sum(lengths.sum() for _, lengths in data))
            assert found[0] == pytest.approx(frames * divergence(model, other, data), rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_group_that_the_output_does_not_feel_gets_least():
    """A model whose second layer says next to nothing, in spite of its large weights."""
    model, data = acoustic_model(), features()
    with torch.no_grad():
        model.rnn.weight_hh_l1.copy_(2 * torch.randn_like(model.rnn.weight_hh_l1))
        model.rnn.weight_ih_l1[36:].fill_(0)  # output gates shut
        model.rnn.weight_hh_l1[36:].fill_(0)
        model.rnn.bias_ih_l1[36:].fill_(-12)
    by_output = make_plan(model, parse_size("3x"), Method("svd", allocation="output"), Guide(data)).budgets
    by_error = make_plan(model, parse_size("3x"), Method("svd")).budgets
    assert by_output[2] < by_error[2]


def test_any_module_can_be_calibrated_and_measured():
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.GRU(4, 12, 2, bidirectional=True, batch_first=True)})
    model.forward = lambda tokens: model["rnn"](tokens)[0].mean(1)
    method = Method("dirnet", weighting="fisher", allocation="output")
    small, report = dirnet.compress(model, "3x", method, progress=False, data=[torch.randn(3, 9, 4)])
    assert report["ratio"] >= 3 and all(p.isfinite().all() for p in small.parameters())


def test_auto_weighs_where_there_is_data_and_only_there():
    model, data = acoustic_model(), features()
    unweighted = Method("dirnet", allocation="equal")
    plain = dirnet.compress(copy.deepcopy(model), "4x", unweighted, progress=False)[0].state_dict()
    auto = dirnet.compress(copy.deepcopy(model), "4x", METHODS["dirnet"], progress=False)[0].state_dict()
    assert all(torch.equal(value, auto[name]) for name, value in plain.items())
    weighed = dirnet.compress(copy.deepcopy(model), "4x", "dirnet", progress=False, data=data)[1]
    alike = dataclasses.replace(FISHER, allocation="equal")
    fisher = dirnet.compress(copy.deepcopy(model), "4x", alike, progress=False, data=data)[1]
    assert weighed["relative_error"] == fisher["relative_error"]


def test_the_papers_preset_is_as_published():
    small, report = dirnet.compress(acoustic_model(), "4x", "dirnet", preset="paper", progress=False, data=features())
    assert report["settings"]["weighting"] == "none" and not report["settings"]["permute"]
    assert not report["settings"]["joint"]
    method = Method("dirnet", preset="paper", allocation="equal", joint=False)
    paper, _ = dirnet.compress(acoustic_model(), "4x", method, progress=False)
    other = paper.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in small.state_dict().items())


def test_asking_for_data_that_is_not_there_is_named():
    for method, message in [(FISHER, "weighting: fisher"), (Method("svd", allocation="output"), "allocation: output")]:
        with pytest.raises(UserError, match=f"method has {message} .* give data"):
            dirnet.compress(acoustic_model(), "4x", method, progress=False)
    with pytest.raises(UserError, match="identity is 2, expected"):
        Method("dirnet", identity=2.0)
    for other in ({"shifts": 1}, {"input_group": "shared"}):
        with pytest.raises(UserError, match="weighting is fisher, expected none with shifts"):
            Method("dirnet", weighting="fisher", **other)


@pytest.mark.parametrize("weighting", ["none", "activation", "fisher"])
def test_a_group_that_is_kept_whole_costs_the_output_nothing(weighting):
    """A weighting cannot be undone without a dictionary, and need not be: nothing was factorized."""
    model, data = acoustic_model(), features()
    method = Method("dirnet", allocation="output", weighting=weighting)
    guide = make_guide(model, method, data)
    plan = make_plan(model, parse_size("2x"), method, guide)
    errors = output_errors(model, plan.groups, plan.prices, method, guide)
    for at, price in enumerate(plan.prices):
        assert errors(at, [price.dense, price.dense // 2])[0] == 0 < errors(at, [price.dense // 2])[0]


@pytest.mark.parametrize("weighting", ["none", "fisher"])
def test_a_budget_by_output_wants_data_that_say_something(weighting):
    method = Method("dirnet", allocation="output", weighting=weighting)
    with pytest.raises(UserError, match="calibration data is empty"):
        dirnet.compress(acoustic_model(), "3x", method, data=[], progress=False)
    broken = [(inputs * float("nan"), lengths) for inputs, lengths in features()]
    with pytest.raises(UserError, match="calibration gave .* of NaN or infinity; look at the inputs"):
        dirnet.compress(acoustic_model(), "3x", method, data=broken, progress=False)
    unread = iter(features() * 10)
    dirnet.compress(acoustic_model(), "3x", method, data=unread, progress=False)
    assert not list(unread)
