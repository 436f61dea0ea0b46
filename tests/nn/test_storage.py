"""Stored models: exact round trips, sizes to the byte, and every kind of damage named."""

import errno
import hashlib
import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save

from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.indices import runs
from dirnet.nn.tensors import take_tensors, to_tensors

LAYOUTS = [None, ([4, 20], [None, 30], [300, 41]), ([3, None], [2, 0], [None, None])]


INT8 = [(layout, "int8") for layout in LAYOUTS[1:]]


@pytest.fixture(params=[*((layout, "float32") for layout in LAYOUTS), *INT8], ids=str)
def model(request):
    """Int8 models hold what a file holds: loading leaves nothing unrounded."""
    layout, dtype = request.param
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type="lstm", hidden_size=8, num_layers=2, feature_size=5, context=1, num_outputs=3, phones=tuple("-ab"),
        cmvn_mean=(0.1, 0.2, 0.3, 0.4, 0.5), compression=layout, block=1 if layout is None else 2, dtype=dtype,
    )  # fmt: skip
    model = AcousticModel(config).eval()
    for matrix in storage._coded(model).values():
        take_tensors(matrix, to_tensors(matrix))
    return model


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_an_int8_model_in_training_is_stored_as_it_computes(layout, tmp_path):
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type="gru", hidden_size=8, num_layers=2, feature_size=5, context=1, num_outputs=3, phones=tuple("-ab"),
        compression=layout, block=2, dtype="int8",
    )  # fmt: skip
    model = AcousticModel(config).eval()
    features, lengths = torch.randn(2, 7, 5), torch.tensor([7, 4])
    expected = model(features, lengths)[0]
    storage.save(model, tmp_path)
    again = storage.load(tmp_path)
    assert again.config == model.config and again.config.dtype == "int8"
    assert torch.equal(again(features, lengths)[0], expected)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    storage.save(again, tmp_path / "again")
    assert (tmp_path / "again" / storage.WEIGHTS).read_bytes() == first[storage.WEIGHTS]
    content = first[storage.WEIGHTS]
    assert len(content) - 8 - struct.unpack("<Q", content[:8])[0] == storage.stored_bytes(model)


def test_int8_needs_coded_layers():
    with pytest.raises(UserError, match="dtype is 'int8', expected float32 for torch's own layers"):
        AcousticModelConfig(rnn_type="lstm", hidden_size=8, num_layers=1, phones=("-",), num_outputs=1, dtype="int8")
    with pytest.raises(UserError, match="dtype is 'int16', expected float32 or int8"):
        AcousticModelConfig(rnn_type="lstm", hidden_size=8, num_layers=1, phones=("-",), num_outputs=1, dtype="int16")


def test_round_trip_is_exact_and_the_file_has_the_announced_size(model, tmp_path):
    storage.save(model, tmp_path, {"size": "7.9x"})
    again = storage.load(tmp_path)
    assert again.config == model.config and not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    content = (tmp_path / storage.WEIGHTS).read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    assert len(content) - header == storage.stored_bytes(model)
    description = storage.describe(tmp_path)
    assert description["extra"] == {"size": "7.9x"} and description["versions"]["torch"] == torch.__version__


def test_coded_bytes_equal_what_is_stored(model):
    coded = storage._coded(model)
    for matrix in coded.values():
        packed = to_tensors(matrix)
        assert matrix.stored_bytes() == sum(t.numel() * t.element_size() for t in packed.values())
        if "rows" in packed:
            assert packed["counts"].shape == (runs(matrix.code_rows), matrix.columns // matrix.block)
        assert matrix.index is None or ("mask" in packed) != ("rows" in packed)


def test_damage_is_named(model, tmp_path):
    storage.save(model, tmp_path)
    path = tmp_path / storage.WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="sha256"):
        storage.load(tmp_path)
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match="truncated"):
        storage.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="model.safetensors does not exist"):
        storage.load(tmp_path)
    path.write_bytes(content)
    storage.load(tmp_path)
    for content in ("{", "[" * 100000, '{"config": {"cmvn_mean": [NaN]}}'):
        (tmp_path / storage.DESCRIPTION).write_text(content)
        with pytest.raises(UserError, match="not JSON"):
            storage.load(tmp_path)
    storage.save(model, tmp_path)
    description = json.loads((tmp_path / storage.DESCRIPTION).read_text())
    for extra in (None, [], "text"):
        (tmp_path / storage.DESCRIPTION).write_text(json.dumps(description | {"extra": extra}))
        with pytest.raises(UserError, match="extra is no mapping: damaged or edited"):
            storage.load(tmp_path)


def rewrite(folder, change):
    """Change the stored tensors and sign them again: what a wrong program, not a broken disk, would leave."""
    tensors = load_file(folder / storage.WEIGHTS)
    change(tensors)
    content = save(tensors)
    (folder / storage.WEIGHTS).write_bytes(content)
    description = json.loads((folder / storage.DESCRIPTION).read_text())
    description |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / storage.DESCRIPTION).write_text(json.dumps(description))


def test_a_wrong_program_is_caught(model, tmp_path):
    def refused(change, message):
        storage.save(model, tmp_path)
        rewrite(tmp_path, change)
        with pytest.raises(UserError, match=message):
            storage.load(tmp_path)

    refused(lambda t: t.pop("output.bias"), "lacks tensor output.bias")
    refused(lambda t: t.update(other=torch.zeros(1)), "unexpected tensor other")
    refused(lambda t: t.update({"output.bias": torch.zeros(4)}), "output.bias is .*expected")
    refused(lambda t: t["output.bias"].fill_(float("nan")), "output.bias holds NaN")
    if model.config.compression and model.config.compression[0][1]:
        if "rows" in to_tensors(model.rnn.groups[0]):
            refused(lambda t: t["rnn.groups.0.rows"].fill_(200), "rows names a row twice or one beyond 3")
            refused(lambda t: t["rnn.groups.0.counts"].view(torch.int16).add_(1), "counts adds up to")
        else:
            refused(lambda t: t["rnn.groups.0.mask"].fill_(0), "mask has 0 bits, expected")


def test_nan_is_not_saved_and_an_interrupted_write_leaves_the_old_model(model, tmp_path, monkeypatch):
    storage.save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        model.output.bias.fill_(float("inf"))
    with pytest.raises(UserError, match="output.bias holds NaN or infinity"):
        storage.save(model, tmp_path)
    with torch.no_grad():
        model.output.bias.fill_(1.0)
    monkeypatch.setattr(os, "fsync", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.save(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_description_never_tells_of_weights_that_are_not_there(model, tmp_path, monkeypatch):
    written, fsync = [], os.fsync

    def full_disk(descriptor):
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        storage.save(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [storage.WEIGHTS]


def _interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("change", [
    None, {"compression": [3, 5, 6]}, {"compression": [["a", None]] * 3}, {"compression": [[1e3, 2.5]] * 3},
    {"cmvn_mean": ["a"] * 5}, {"hidden_size": -4}, {"num_layers": 5},
], ids=str)  # fmt: skip
def test_a_configuration_that_describes_no_model_is_named(tmp_path, change):
    config = AcousticModelConfig(
        rnn_type="lstm", hidden_size=8, num_layers=2, feature_size=5, context=1, num_outputs=3, phones=tuple("-ab"),
        compression=([4, 20], [None, 30], [300, 41]), block=2,
    )  # fmt: skip
    storage.save(AcousticModel(config), tmp_path)
    description = json.loads((tmp_path / storage.DESCRIPTION).read_text())
    description["config"] = None if change is None else description["config"] | change
    (tmp_path / storage.DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"model\.json"):
        storage.load(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / storage.DESCRIPTION).mkdir()
    with pytest.raises(UserError, match="does not exist as a file"):
        storage.load(tmp_path)
