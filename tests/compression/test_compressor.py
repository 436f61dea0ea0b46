"""Compression end to end: sizes kept, reports true, the program's promises."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.finetune import refuse_changed_layout
from dirnet.compression.groups import matrix_groups
from dirnet.compression.methods import METHODS, Method
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.recurrent import DirNetGRU, DirNetLSTM


class Tagger(nn.Module):
    """An owner with an embedding, a bidirectional GRU and a linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 12)
        self.rnn = nn.GRU(12, 16, 2, bidirectional=True, batch_first=True)
        self.output = nn.Linear(32, 5)

    def forward(self, tokens):
        return self.output(self.rnn(self.embedding(tokens))[0])


def low_rank_lstm(size=24, layers=2, seed=0):
    """An LSTM with decaying spectra, as trained ones have."""
    torch.manual_seed(seed)
    lstm = nn.LSTM(size, size, layers)
    with torch.no_grad():
        for name, weight in lstm.named_parameters():
            if name.startswith("weight"):
                left, values, right = torch.linalg.svd(weight, full_matrices=False)
                scale = values.max() * torch.arange(1, len(values) + 1) ** -0.7
                weight.copy_(left @ (scale[:, None] * right))
    return lstm


BLOCKED = [Method("dirnet", block=8), Method("prune", block=4)]
SHIFTED = [Method("dirnet", shifts=1)]


@pytest.mark.parametrize("method", ["dirnet", "svd", "odl", "prune", *BLOCKED, *SHIFTED], ids=str)
@pytest.mark.parametrize("size", ["2x", "4.5x", "3k", "10kB"])
def test_sizes_are_kept_and_reports_are_true(method, size):
    lstm = low_rank_lstm()
    dense = sum(p.numel() for p in lstm.parameters())
    model, report = dirnet.compress(copy.deepcopy(lstm), size, method, progress=False)
    assert isinstance(model, DirNetLSTM)
    params = sum(p.numel() for p in model.parameters())
    stored = sum(t.numel() * t.element_size() for t in storage.stored_tensors(model).values())
    assert report["compressed"]["params"] == params and report["dense"]["params"] == dense
    assert report["compressed"]["bytes"] == stored and report["dense"]["bytes"] == 4 * dense
    assert report["ratio"] == dense / params
    limit, reached = {"2x": (dense / 2, params), "4.5x": (dense / 4.5, params), "3k": (3000, params)}.get(
        size, (10000, stored)
    )
    step = 5 * 24 if method == "svd" else 0  # a rank of the smallest group is all that svd can add
    assert 0.98 * limit - step * (4 if size.endswith("B") else 1) <= reached <= limit
    for unit in ("params", "bytes"):
        assert sum(row[unit] for row in report["groups"]) + report["uncompressed"][unit] == report["compressed"][unit]
    products = [coded.matrix().detach() for coded in model.groups]
    for row, product, group in zip(report["groups"], products, matrix_groups(lstm), strict=True):
        error = (group.matrix - product).norm() / group.matrix.norm()
        assert row["relative_error"] == pytest.approx(error.item(), rel=1e-4)
        assert row["density"] <= 1 and row["relative_error"] < 1
    energy = sum(float(g.matrix.square().sum()) for g in matrix_groups(lstm))
    lost = sum(float((g.matrix - p).square().sum()) for g, p in zip(matrix_groups(lstm), products, strict=True))
    assert report["relative_error"] == pytest.approx((lost / energy) ** 0.5, rel=1e-4)
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("method", ["dirnet", "svd", "odl", "dirnet_b8"])
def test_atoms_and_codes_start_fine_tuning_at_one_scale(method):
    model, _ = dirnet.compress(low_rank_lstm(), "4x", method, progress=False)
    for coded in model.groups:
        codes = coded.latent_codes().detach()
        sizes = codes.square().sum(1) / codes.count_nonzero(1), coded.dictionary.detach().square().mean(0)
        torch.testing.assert_close(*sizes, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("first, second", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_a_budget_of_bytes_knows_the_type_of_each_layer(first, second):
    model = nn.Sequential(nn.Linear(24, 24).to(first), low_rank_lstm().to(second))
    limit = storage.stored_bytes(model) // 2
    small, _ = dirnet.compress(model, f"{limit}B", progress=False)
    assert 0.98 * limit <= storage.stored_bytes(small) <= limit


def test_shifts_go_with_a_size_in_bytes():
    torch.manual_seed(0)
    gru = nn.GRU(60, 30, 2)
    with torch.no_grad():
        for weight in (gru.weight_ih_l0, gru.weight_hh_l1):
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
            weight.copy_(left @ ((values[0] * 0.7 ** torch.arange(len(values)))[:, None] * right))
    limit = round(0.6 * storage.stored_bytes(gru))
    small, _ = dirnet.compress(gru, f"{limit}B", Method("dirnet", shifts=1), progress=False)
    assert storage.stored_bytes(small) <= limit


def test_a_preset_brings_what_belongs_to_it():
    for method, preset, like in (("dirnet", "paper", "dirnet_paper"), ("dirnet_paper", "best", "dirnet")):
        assert METHODS[method].changed(preset=preset) == METHODS[like]
    joint = Method("dirnet", preset="paper")
    assert joint.changed(preset="paper") == joint  # its own: nothing to bring
    moved = Method("dirnet", preset="paper", shifts=1).changed(preset="best")
    assert (moved.preset, moved.weighting, moved.permute) == ("best", "none", False)  # shifts exclude the others


def test_the_threads_of_the_caller_change_no_bit():
    found, lstm, data = [], low_rank_lstm(), [torch.randn(40, 8, 24, generator=torch.Generator().manual_seed(1))]
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            method = Method("dirnet", weighting="activation")
            small, _ = dirnet.compress(copy.deepcopy(lstm), "4x", method, progress=False, data=data)
            found.append(small.state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


INT8 = [(method, "6kB") for method in ("dirnet", "svd", "odl", "prune", *BLOCKED)]
INT8 += [("svd", "4.5x"), ("prune", "4.5x")]


@pytest.mark.parametrize("method, size", INT8, ids=str)
def test_sizes_in_int8(method, size):
    lstm = low_rank_lstm()
    dense = sum(p.numel() for p in lstm.parameters())
    model, report = dirnet.compress(copy.deepcopy(lstm), size, method, progress=False, dtype="int8")
    assert model.dtype == "int8" and report["settings"]["dtype"] == "int8"
    params = sum(p.numel() for p in model.parameters())
    stored = sum(t.numel() * t.element_size() for t in storage.stored_tensors(model).values())
    assert report["compressed"]["params"] == params and report["compressed"]["bytes"] == stored
    limit, reached = (6000, stored) if size == "6kB" else (dense / 4.5, params)
    step = 5 * 24 + 4 if method == "svd" else 0  # a rank of the smallest group is all that svd can add
    assert 0.98 * limit - step <= reached <= limit
    biases = 2 * 2 * 4 * 24
    assert report["uncompressed"] == {"params": biases, "bytes": 4 * biases}
    for row, group, coded in zip(report["groups"], matrix_groups(lstm), model.groups, strict=True):
        error = (group.matrix - coded.matrix().detach()).norm() / group.matrix.norm()
        assert row["relative_error"] == pytest.approx(error.item(), rel=1e-4) and row["bytes"] == coded.stored_bytes()
    if method in ("svd", "prune"):
        floats, other = dirnet.compress(lstm, size, method, progress=False)
        if size == "6kB":  # as many bytes, of which int8 makes more values
            assert params > 1.5 * sum(p.numel() for p in floats.parameters())
            assert report["relative_error"] < 0.95 * other["relative_error"]
        else:  # as many values, in a fraction of the bytes
            assert stored < 0.65 * storage.stored_bytes(floats)


def test_more_bytes_than_int8_can_use_keep_everything():
    lstm = low_rank_lstm()
    whole = sum(w.numel() for name, w in lstm.named_parameters() if name.startswith("weight"))
    model, report = dirnet.compress(copy.deepcopy(lstm), "30kB", "svd", progress=False, dtype="int8")
    rest = 4 * (sum(p.numel() for p in lstm.parameters()) - whole)
    assert report["compressed"]["bytes"] == rest + whole + 2 * 3 * 24 and report["relative_error"] < 0.02
    assert [group.layout for group in model.groups] == [[None, None]] * 3


def test_the_dense_model_in_int8_is_a_method():
    lstm, x = low_rank_lstm(), torch.randn(5, 2, 24)
    expected = lstm(x)[0]
    model, report = dirnet.compress(copy.deepcopy(lstm), "1x", Method("dense", dtype="int8"), progress=False)
    assert report["ratio"] == 1 and report["compressed"]["bytes"] < 0.32 * report["dense"]["bytes"]
    assert [group.layout for group in model.groups] == [[None, None]] * 3
    assert 1e-6 < (model(x)[0] - expected).abs().max() < 0.02
    exact, _ = dirnet.compress(copy.deepcopy(lstm), "1x", Method("dense"), progress=False)
    torch.testing.assert_close(exact(x)[0], expected)
    with pytest.raises(UserError, match=r"size '2x' means .* out of reach with this method .*\(1x to 1x\)"):
        dirnet.compress(lstm, "2x", Method("dense", dtype="int8"))
    with pytest.raises(UserError, match="dtype is 'int4', expected float32 or int8"):
        dirnet.compress(lstm, "2x", dtype="int4")


def test_dirnet_loses_least_and_allocation_pays():
    errors = {}
    for name in METHODS.keys() - {"dense", "small"}:
        errors[name] = dirnet.compress(low_rank_lstm(), "4x", name, progress=False)[1]["relative_error"]
    assert errors["dirnet"] == min(errors.values()), errors
    for solver in ("dirnet", "svd", "prune"):
        by_error, equal = (
            dirnet.compress(low_rank_lstm(), "4x", Method(solver, allocation=how), progress=False)[1]["relative_error"]
            for how in ("error", "equal")
        )
        assert by_error <= equal * 1.005


def test_the_dense_control_is_the_dense_model():
    lstm = low_rank_lstm()
    inputs = torch.randn(5, 2, 24)
    model, report = dirnet.compress(copy.deepcopy(lstm), "1x", "dense", progress=False)
    assert report["ratio"] == 1 and report["relative_error"] == 0 and model.layout == [[None, None]] * 3
    torch.testing.assert_close(model(inputs)[0], lstm(inputs)[0])
    with pytest.raises(UserError, match=r"choose from ([\d,]+) to \1 params \(1x to 1x\)"):
        dirnet.compress(lstm, "2x", "dense")


def test_a_few_zeros_in_what_is_kept_dense_break_no_budget_of_bytes():
    lstm = low_rank_lstm()
    with torch.no_grad():
        lstm.weight_ih_l0[:2, :3] = 0
    kept, limit = lstm.weight_ih_l0.detach().clone(), 4 * sum(p.numel() for p in lstm.parameters()) - 2000
    model, report = dirnet.compress(lstm, f"{limit}B", Method("dirnet", input_group="dense"), progress=False)
    assert report["groups"][0]["density"] == 1 and report["compressed"]["bytes"] <= limit
    assert torch.allclose(model.groups[0].matrix().T, kept, rtol=0, atol=1e-37)


def test_what_is_kept_dense_is_kept_with_calibration_data_too():
    lstm, inputs = low_rank_lstm(), torch.randn(4, 9, 24)
    before = lstm(inputs)[0]
    kept, report = dirnet.compress(copy.deepcopy(lstm), "1x", data=[inputs], progress=False)
    torch.testing.assert_close(kept(inputs)[0], before)
    assert report["relative_error"] == 0
    method = Method("dirnet", weighting="fisher", input_group="dense")
    small = dirnet.compress(lstm, "2x", method, data=[inputs], progress=False)[0]
    assert torch.equal(small.groups[0].matrix(), lstm.weight_ih_l0.T)


def test_any_owner_in_place():
    torch.manual_seed(0)
    model = Tagger().eval()
    state = {name: value for name, value in model.state_dict().items() if "rnn" not in name}
    tokens = torch.randint(0, 10, (3, 7))
    before = model(tokens)
    mild, _ = dirnet.compress(copy.deepcopy(model), "1.0x", progress=False)
    torch.testing.assert_close(mild(tokens), before)
    same, report = dirnet.compress(model, "1.5x", progress=False)
    assert same is model and isinstance(model.rnn, DirNetGRU)
    assert [row["name"] for row in report["groups"]][:2] == ["rnn.input", "rnn.hidden_l0"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert model(tokens).shape == before.shape
    with pytest.raises(UserError, match="compressed already"):
        dirnet.compress(model)


@pytest.mark.parametrize("preset", ["best", "paper"])
def test_shifts_reach_the_stored_model(tmp_path, preset):
    torch.manual_seed(0)
    config = AcousticModelConfig("gru", 24, 1, tuple("-abc"), feature_size=5, context=1, num_outputs=4)
    method = Method("dirnet", preset=preset, shifts=1, shift_kind="zero")
    model, report = dirnet.compress(AcousticModel(config).eval(), "8kB", method, progress=False)
    storage.save(model, tmp_path)
    again = storage.load(tmp_path)
    assert (again.config.shifts, again.config.shift_kind) == (1, "zero")
    moved = 0
    for ours, theirs in zip(model.rnn.groups, again.rnn.groups, strict=True):
        assert torch.equal(ours.matrix(), theirs.matrix()) and ours.macs() == theirs.macs() > ours.params()
        moved += int(theirs.offsets.count_nonzero())
    assert moved > 20
    content = (tmp_path / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    assert len(content) - header == report["compressed"]["bytes"] <= 8000
    assert report["compressed"]["macs_per_frame"] == sum(m.macs() for m in again.rnn.groups) + 4 * 24


def test_the_input_is_shared_dense_or_on_its_own(tmp_path):
    lstm = low_rank_lstm(layers=1)
    report = {}
    for kind in ("own", "shared", "dense"):
        model, report[kind] = dirnet.compress(
            copy.deepcopy(lstm), "1.8x", Method("dirnet", input_group=kind), progress=False
        )
        assert report[kind]["compressed"]["params"] <= report[kind]["limit"]["params"]
        assert (model.input_group == "shared") == (kind == "shared")
        assert torch.equal(model.dense_weights()["weight_ih_l0"], lstm.weight_ih_l0) == (kind == "dense")
    names = {kind: [row["name"] for row in report[kind]["groups"]] for kind in report}
    assert names == {"own": ["input", "hidden_l0"], "shared": ["hidden_l0"], "dense": ["input", "hidden_l0"]}
    assert report["dense"]["groups"][0]["relative_error"] == 0
    config = AcousticModelConfig("lstm", 15, 1, tuple("-abc"), feature_size=5, context=1, num_outputs=4)
    model, told = dirnet.compress(AcousticModel(config), "2x", Method("dirnet", input_group="shared"), progress=False)
    storage.save(model, tmp_path)
    again = storage.load(tmp_path)
    assert again.config.input_group == "shared" and len(again.config.compression) == 1
    features, lengths = torch.randn(2, 9, 5), torch.tensor([9, 5])
    assert torch.equal(again(features, lengths)[0], model.eval()(features, lengths)[0])
    coded = again.rnn.groups[0]
    assert told["compressed"]["macs_per_frame"] == 2 * 15 * coded.atoms + coded.codes.numel() + 4 * 15
    with pytest.raises(UserError, match="single layer, this one has 2"):
        dirnet.compress(low_rank_lstm(), "2x", Method("dirnet", input_group="shared"))


def test_the_papers_preset_shares_where_a_single_layer_allows_it():
    """Sec. 3.5: one D for W_x and W_h of a single layer; a stack, or a layer with other inputs, keeps its own."""
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "single": nn.LSTM(24, 24), "cell": nn.GRUCell(24, 24), "other": nn.LSTM(16, 24), "stack": nn.RNN(24, 24, 2),
    })  # fmt: skip
    for options in ({"method": "dirnet_paper"}, {"preset": "paper"}):
        coded, report = dirnet.compress(copy.deepcopy(model), "2x", progress=False, **options)
        assert [row["name"] for row in report["groups"]] == [
            "single.hidden_l0", "cell.hidden_l0", "other.input", "other.hidden_l0", "stack.input", "stack.hidden_l0",
            "stack.hidden_l1",
        ]  # fmt: skip
        assert {name: layer.input_group for name, layer in coded.items()} == {
            "single": "shared", "cell": "shared", "other": "own", "stack": "own",
        }  # fmt: skip
    best = dirnet.compress(copy.deepcopy(model), "2x", "dirnet_paper", preset="best", progress=False)[0]
    assert {layer.input_group for layer in best.values()} == {"own"}


def test_equal_seeds_give_equal_models():
    first, again = (dirnet.compress(low_rank_lstm(layers=1), "4x", seed=3, progress=False)[0] for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("method", ["dirnet", Method("dirnet", preset="paper"), "svd"], ids=str)
def test_the_number_of_jobs_changes_no_bit_and_leaves_torch_as_it_was(method):
    before = torch.get_num_threads()
    models = [dirnet.compress(low_rank_lstm(), "4x", method, progress=False, nj=nj)[0] for nj in (1, 3)]
    assert torch.get_num_threads() == before
    for name, value in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value), name
    with pytest.raises(UserError, match="nj is 0"):
        dirnet.compress(low_rank_lstm(), "4x", nj=0)


def test_impossible_sizes_name_the_feasible_range():
    lstm = low_rank_lstm()
    dense = sum(p.numel() for p in lstm.parameters())
    with pytest.raises(UserError, match=rf"size '1000x'.*out of reach.*to {dense:,} params \(1x to \d+"):
        dirnet.compress(lstm, "1000x")
    with pytest.raises(UserError, match=rf"size '9MB' means 9,000,000 bytes.*to {4 * dense:,} bytes"):
        dirnet.compress(lstm, "9MB")
    with pytest.raises(UserError, match="method .magic. is unknown; .* dirnet_b4, dirnet_b8.* conf/compress.yaml"):
        dirnet.compress(lstm, method="magic")
    with pytest.raises(UserError, match="block 7 does not divide the [0-9]+ columns of .*; give 1 or another divisor"):
        dirnet.compress(lstm, block=7)
    assert type(lstm) is nn.LSTM


def test_the_smallest_feasible_size_is_feasible():
    for method in METHODS.keys() - {"small"}:
        lstm = low_rank_lstm()
        with pytest.raises(UserError) as error:
            dirnet.compress(lstm, "0.1k", method)
        least = int(str(error.value).split("choose from ")[1].split(" to ")[0].replace(",", ""))
        _, report = dirnet.compress(lstm, str(least), method, progress=False)
        assert report["compressed"]["params"] <= least


def test_training_a_compressed_model_keeps_its_layout():
    model, _ = dirnet.compress(low_rank_lstm(), "4x", progress=False)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)
    model(torch.randn(5, 2, 24))[0].square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    assert not torch.equal(after["groups.0.codes"], before["groups.0.codes"])
    refuse_changed_layout(before, after)
    moved = dict(after, **{"groups.0.index": after["groups.0.index"].flip(0)})
    with pytest.raises(UserError, match="groups.0.index changed in training"):
        refuse_changed_layout(before, moved)
    with pytest.raises(UserError, match="groups.0.codes was"):
        refuse_changed_layout(before, dict(after, **{"groups.0.codes": after["groups.0.codes"][1:]}))
    with pytest.raises(UserError, match="extra is new"):
        refuse_changed_layout(before, dict(after, extra=torch.zeros(1)))


def test_import_is_light():
    code = "import sys, torch; had = set(sys.modules); import dirnet; dirnet.compress; print(set(sys.modules) - had)"
    brought = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "dirnet.compression" in brought
    heavy = ("espnet2", "executorch", "torchaudio", "kaldifst", "sklearn", "numba", "torch._dynamo")
    assert not any(f"'{module}'" in brought for module in heavy)
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        _ = dirnet.compres
