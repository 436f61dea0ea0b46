"""What stands around a compression: autocast that is on, and whatever ends it early."""

import copy

import pytest
import torch

from dirnet.compression import compressor
from dirnet.compression.compressor import compress
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


def acoustic():
    torch.manual_seed(0)
    config = AcousticModelConfig(
        "lstm", 24, 2, num_outputs=5, phones=("<blank>", *"ABCD"), feature_size=8, context=1, frame_stride=1
    )
    return AcousticModel(config).eval()


@pytest.mark.parametrize("method", ["dirnet", "dirnet_b8", "dirnet_paper", "odl"])
def test_autocast_around_it_changes_nothing(method):
    plain, report = compress(acoustic(), "3x", method, progress=False)
    with torch.autocast("cpu", torch.bfloat16):
        cast, other = compress(acoustic(), "3x", method, progress=False)
    assert other["relative_error"] == report["relative_error"]
    assert all(torch.equal(value, cast.state_dict()[name]) for name, value in plain.state_dict().items())


def test_what_ends_early_leaves_the_model_as_it_was(monkeypatch):
    model = acoustic()
    before, parameters = copy.deepcopy(model.state_dict()), list(map(id, model.parameters()))
    with pytest.raises(UserError, match="out of reach"):
        compress(model, "1000x", "dirnet_b8", progress=False)
    assert list(map(id, model.parameters())) == parameters
    moved = []

    def stopped(*_):
        moved.append(not torch.equal(model.output.weight, before["output.weight"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(compressor, "factorize", stopped)
    with pytest.raises(KeyboardInterrupt):
        compress(model, "3x", "dirnet_b8", progress=False)
    assert moved == [True]  # units had changed places
    assert list(map(id, model.parameters())) == parameters
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
