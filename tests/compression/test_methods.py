"""The methods of conf/compress.yaml are those built in, and a wrong one is named."""

import dataclasses

import pytest

from dirnet.compression.methods import METHODS, Method, load_methods
from dirnet.errors import UserError


def test_the_shipped_methods_are_valid(request):
    methods = load_methods(request.config.rootpath / "conf" / "compress.yaml")
    assert {"dirnet", "dirnet_b8", "dirnet_paper", "svd", "odl", "prune"} <= methods.keys()
    assert methods["dirnet_b8"].block == 8
    for name in ("dirnet", "dirnet_b8", "svd", "odl", "prune"):
        assert methods[f"{name}_int8"] == dataclasses.replace(methods[name], dtype="int8")
    assert methods["dense_int8"] == Method("dense", dtype="int8")
    for name, method in METHODS.items():
        assert methods[name] == method


def test_a_wrong_method_file_is_named(tmp_path):
    for text, message in [
        ("dirnet: {solver: dirnt}", "solver is 'dirnt'"),
        ("dirnet: {solver: dirnet, blok: 2}", "did you mean 'block'"),
        ("svd: svd", "svd is 'svd'"),
        ("svd: {solver: svd, block: 8}", "block is 8, expected 1"),
        ("dense: {solver: dense, block: 8}", "block is 8, expected 1: what solver dense keeps is dense"),
        ("dense: {solver: dense, dtype: int4}", "dtype is 'int4'"),
        ("a: {solver: dirnet, allocation: variance}", "allocation is variance, expected error, equal or output"),
        ("svd: {solver: svd, shifts: 1}", "shifts is 1, expected 0: only solver dirnet"),
        ("svd: {solver: svd, joint: false}", "joint is false, expected true: solver svd"),
        ("a: {solver: dirnet, shifts: -1}", "shifts is -1, expected 0"),
        ("a: {solver: dirnet, shift_kind: round}", "shift_kind is 'round'"),
        ("a: {solver: dirnet, input_group: both}", "input_group is 'both'"),
        (
            "a: {solver: dirnet, input_group: auto, weighting: auto}",
            "expected none with shifts or input_group shared or auto",
        ),
        ("a: {solver: dirnet, block: 8, input_group: auto, permute: true}", "expected false with input_group auto"),
        ("a: {solver: prune, support: gradual, input_group: auto}", "permute false and input_group own or dense"),
    ]:
        (tmp_path / "conf.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            load_methods(tmp_path / "conf.yaml")


@pytest.mark.parametrize("field", ["solver", "preset", "allocation", "dtype", "shift_kind", "input_group", "weighting",
                                   "support"])  # fmt: skip
def test_a_choice_is_checked_in_python_too(field):
    with pytest.raises(UserError, match=f"{field} is 'foo', expected .* or "):
        Method(**{"solver": "dirnet", field: "foo"})


@pytest.mark.parametrize("field", ["vartheta", "gamma", "penalty"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0])
def test_a_path_without_an_end_is_refused(field, value):
    with pytest.raises(UserError, match=f"{field} {value}"):
        Method("dirnet", preset="paper", **{field: value})
