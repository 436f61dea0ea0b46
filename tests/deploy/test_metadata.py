"""Constants that are missing, of another type or version, or make no sense."""

from __future__ import annotations

import pytest
import torch

import dirnet
from dirnet.deploy import metadata, packing
from dirnet.deploy.export import constants, streaming_model
from dirnet.deploy.lowering import lower
from dirnet.deploy.program import Program
from dirnet.errors import UserError


@pytest.fixture
def good(model_of):
    """The constants as `export` writes them."""
    model = model_of()
    return constants(model, streaming_model(model, "dirnet", 16), 16, "ab")


def test_what_export_writes_is_complete_and_nothing_of_it_superfluous(good):
    metadata.check(good, "a.pte")
    assert set(metadata.CONSTANTS) <= set(good)
    for name in metadata.CONSTANTS:
        rest = {key: value for key, value in good.items() if key != name}
        with pytest.raises(UserError, match=f"a.pte does not tell its {name}.*export it again"):
            metadata.check(rest, "a.pte")


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("sample_rate", 0, "is 0, expected a whole number from 1"),
        ("stride", 1.0, "is 1.0, expected a whole number"),
        ("context", -1, "is -1, expected a whole number from 0"),
        ("compressed", 1, "is 1, expected true or false"),
        ("backend", "qnn", "is 'qnn', expected dirnet or xnnpack"),
        ("phones", "a b a", "is 'a b a', expected different names"),
        ("frame_shift_ms", float("nan"), "is nan, expected milliseconds above 0"),
        ("mfcc", "[]", r"is '\[\]', expected a JSON object"),
        ("mfcc", "{", "is '{', expected a JSON object"),
        ("cmvn_mean", torch.full((26,), torch.inf), "expected finite values"),
        ("cmvn_istd", torch.zeros(26), "expected finite values above 0"),
        ("cmvn_istd", torch.ones(25), r"is a tensor of \[25\], expected feature_size, 26, values"),
        ("state_sizes", torch.tensor([3, 4, 5]), "expected two sizes above 0 per layer"),
        ("state_sizes", torch.tensor([3, 2**30]), "expected two sizes above 0 per layer"),
        ("chunk", 65, "is 65, expected at most max_chunk, 64"),
    ],
)
def test_what_makes_no_sense_is_named(good, name, value, expected):
    with pytest.raises(UserError, match=f"a.pte says that its {name} .*{expected}.*; export it again"):
        metadata.check(good | {name: value}, "a.pte")


@pytest.mark.parametrize(
    "own, other, fits",
    [("0.1.0", "0.1.9", True), ("0.2.0", "0.1.9", False), ("1.5.0", "1.0.0", True), ("2.0.0", "1.9.9", False),
     ("1.0.0", "0.9.0", False), ("0.1.0", "garbage", False)],
)  # fmt: skip
def test_versions_that_fit_together(good, monkeypatch, own, other, fits):
    monkeypatch.setattr(dirnet, "__version__", own)
    if fits:
        metadata.check(good | {"dirnet_version": other}, "a.pte")
    else:
        with pytest.raises(UserError, match=f"a.pte was exported by dirnet {other}, this is {own}; export it again"):
            metadata.check(good | {"dirnet_version": other}, "a.pte")


def test_a_layout_of_weights_goes_with_a_version():
    """A program's version tells whether its weights can be read: another layout needs another series."""
    assert (packing.LAYOUT, dirnet.__version__.rpartition(".")[0]) == ("DNL4", "0.3")


def test_an_older_program_is_refused_before_it_runs(good, model_of):
    streaming = streaming_model(model_of(), "dirnet", 16)
    older = {name: value for name, value in good.items() if name != "max_chunk"}
    with pytest.raises(UserError, match="old.pte does not tell its max_chunk"):
        Program("old.pte", lower(streaming, older).content)
