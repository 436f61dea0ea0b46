"""What a recipe asks for, checked before any training."""

from __future__ import annotations

import pytest

from dirnet.compression import request
from dirnet.nn.running import CostModel
from dirnet.provenance import cpu_name


@pytest.mark.parametrize(
    ("methods", "sizes", "status", "message"),
    [
        ("dirnet_b8  svd", "7.9x 2MB", 0, ""),
        ("", "7.9x", 2, "--methods is empty, so there is nothing to compress; "),
        (" ", "7.9x", 2, "has svd, dirnet_b8, whole; for the dense model alone"),
        ("svd sdv", "7.9x", 2, "--methods: method 'sdv' is not in"),
        ("svd", "7.9x 0.5x", 2, "size '0.5x' would grow the model"),
        ("svd", "", 2, "no size is given"),
        ("svd", "rtf=0.001", 2, "size rtf=0.001 needs --cost_model; `dirnet cost"),
        ("whole svd", "1x 2MB", 0, ""),
        ("svd whole", "1x 7.9x", 0, ""),  # the recipe takes it at 1x
    ],
)
def test_requests(tmp_path, capsys, methods, sizes, status, message):
    config = tmp_path / "compress.yaml"
    config.write_text("svd: {solver: svd}\ndirnet_b8: {solver: dirnet, block: 8}\nwhole: {solver: dense}\n")
    with pytest.raises(SystemExit) as ended:
        request.main(["--config", str(config), "--methods", methods, "--sizes", sizes])
    error = capsys.readouterr().err
    assert ended.value.code == status and message in error and len(error.splitlines()) == bool(message)


def test_configurations_of_later_stages_are_read_at_once(tmp_path, program):
    (tmp_path / "compress.yaml").write_text("svd: {solver: svd}")
    (tmp_path / "decode.yaml").write_text("- 3")
    options = ("--config", tmp_path / "compress.yaml", "--methods", "svd", "--sizes", "2x", "--read")
    assert program(request.main, *options, tmp_path / "compress.yaml")[0] == 0
    status, _, error = program(request.main, *options, tmp_path / "compress.yaml", tmp_path / "decode.yaml")
    assert status == 2 and "decode.yaml holds a list, expected" in error
    assert "decode.yml does not exist" in program(request.main, *options, tmp_path / "decode.yml")[2]
    assert program(request.main, *options, tmp_path)[0] == 2  # a folder


def test_methods_that_keep_every_value_are_told(tmp_path, program):
    config = tmp_path / "compress.yaml"
    config.write_text("svd: {solver: svd}\nwhole:\n  dtype: int8\n  'solver': dense\nother: {solver: dense}\n")
    options = ("--config", config, "--methods", "whole  svd", "--sizes", "2x")
    assert program(request.main, *options)[:2] == (0, "whole\n")
    later = ("--config", config, "--methods", "svd sdv", "--sizes", "banana", "--check", "false")
    assert program(request.main, *later)[:2] == (0, "\n")


@pytest.mark.parametrize(
    ("methods", "sizes", "message"),
    [
        ("svd small dense_int8", "1x", ""),
        ("svd dense_int8", "6.7x", "method dense_int8 keeps every value, size 6.7x is out of reach"),
        ("dense", "1x", "method dense is in the table as dense_1x whatever --methods says; leave it out"),
        ("svd pruned", "6.7x", "method pruned is not for ESPnet's models: their training keeps every zero"),
        ("tiny", "6.7x", "method tiny is not for ESPnet's models"),
        ("small", "rtf=0.001", "size rtf=0.001 needs an acoustic model of ours; give a ratio, parameters or bytes"),
    ],
)
def test_requests_of_espnets_models(tmp_path, program, methods, sizes, message):
    config = tmp_path / "compress.yaml"
    solvers = {"svd": "svd", "dense": "dense", "dense_int8": "dense", "small": "small", "tiny": "small"}
    lines = [f"{name}: {{solver: {solver}}}" for name, solver in solvers.items()]
    config.write_text("\n".join([*lines, "pruned: {solver: prune, support: gradual}"]))
    options = ("--config", config, "--methods", methods, "--sizes", sizes, "--espnet", "true")
    status, _, error = program(request.main, *options)
    assert status == (2 if message else 0) and message in error and len(error.splitlines()) == bool(message)


def test_the_recipe_that_trains_small_itself_takes_no_other_solver_of_that_name(tmp_path, program):
    config = tmp_path / "compress.yaml"
    config.write_text("small: {solver: svd}\n")
    options = ("--config", config, "--methods", "small", "--sizes", "4x", "--espnet", "true")
    status, _, error = program(request.main, *options)
    assert status == 2 and "method small has the solver svd, but is trained as a smaller dense model" in error


def test_a_cost_model_is_read_before_the_training(tmp_path, program):
    config, cost = tmp_path / "compress.yaml", tmp_path / "cost.json"
    config.write_text("svd: {solver: svd}\n")
    arguments = ("--config", config, "--methods", "svd", "--sizes", "rtf=0.001", "--cost_model", cost)
    status, _, error = program(request.main, *arguments)
    assert status == 2 and "cost.json is not there" in error
    cost.write_text(CostModel(cpu_name(), 1, 16, {"layers": 1e-6}, {}).to_json())
    assert program(request.main, *arguments)[0] == 0
