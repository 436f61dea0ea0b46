import json
import shutil

import pytest
import torch

from dirnet.deploy.export import speech_like
from dirnet.deploy.program import Program
from dirnet.errors import UserError
from dirnet.nn import storage


@pytest.fixture
def copy(exports, tmp_path):
    """A copy of the compressed program that a test may damage."""
    for name in ("encoder.pte", "encoder.json"):
        shutil.copy(exports / "compressed" / name, tmp_path / name)
    return tmp_path / "encoder.pte"


def vouch(path):
    """Make the file beside `path` agree with its content, so that only the structure can tell."""
    import hashlib

    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))


def test_the_metadata_tell_a_runner_everything(exports, model_of):
    program = Program(exports / "compressed/encoder.pte")
    config = model_of(block=8).config
    assert program.phones == list(config.phones) and len(program.phones) == 42
    assert (program.sample_rate, program.frame_shift_ms, program.feature_size) == (16000, 10.0, 26)
    assert (program.context, program.stride, program.chunk, program.max_chunk) == (9, 1, 16, 64)
    assert json.loads(program.mfcc) == {"num_ceps": 26}
    torch.testing.assert_close(program.cmvn_mean, torch.tensor(config.cmvn_mean))
    torch.testing.assert_close(program.cmvn_istd, torch.tensor(config.cmvn_istd))
    assert program.model_sha256 == storage.describe(exports / "compressed")["sha256"]
    assert program.params == storage.load(exports / "compressed").rnn.groups[0].params() + sum(
        p.numel() for n, p in storage.load(exports / "compressed").named_parameters() if "groups.0" not in n
    )
    assert program.compressed and program.dirnet_version and program.rnn_type == "lstm"
    assert program.state_sizes.tolist() == [10, 24, 10, 24]
    assert [tuple(state.shape) for state in program.initial_states()] == [(1, 10), (1, 24)] * 2
    dense = Program(exports / "dense/encoder.pte")
    assert (dense.chunk, dense.max_chunk, dense.compressed, dense.backend) == (1, 1, False, "xnnpack")


@torch.no_grad()
@pytest.mark.parametrize("name", ["compressed", "dense"])
def test_a_stream_of_any_length_equals_the_model(exports, name):
    program, model = Program(exports / name / "encoder.pte"), storage.load(exports / name)
    for frames in (1, 16, 37):
        features = speech_like(model.cmvn_mean, model.cmvn_istd, frames, seed=frames)
        expected = model(features[None], torch.tensor([frames]))[0][0]
        found = program.stream(features).log_softmax(dim=-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_wrong_features_are_told(exports):
    program = Program(exports / "compressed/encoder.pte")
    with pytest.raises(UserError, match=r"features are \[5, 13\], expected \(frames, 26\)"):
        program.stream(torch.zeros(5, 13))


def test_a_missing_program_or_checksum(copy, tmp_path):
    with pytest.raises(UserError, match=r"none.pte is not there; write it with"):
        Program(tmp_path / "none.pte")
    copy.with_suffix(".json").write_text("{}")
    with pytest.raises(UserError, match="does not tell the sha256"):
        Program(copy)
    copy.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="sha256 of encoder.pte is not there"):
        Program(copy)


def test_one_changed_byte_is_noticed(copy):
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(UserError, match="differs from the sha256"):
        Program(copy)


def test_damage_is_noticed_without_a_checksum(copy):
    content = copy.read_bytes()
    for damaged, message in (
        (b"", "not an ExecuTorch program"),
        (b"not a program at all, but long enough to look at", "not an ExecuTorch program"),
        (content[:100], "truncated"),
        (content[: len(content) - 1000], "truncated"),
    ):
        copy.write_bytes(damaged)
        vouch(copy)
        with pytest.raises(UserError, match=message):
            Program(copy)


def test_a_program_of_somebody_else(tmp_path):
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    path = tmp_path / "relu.pte"
    path.write_bytes(to_edge_transform_and_lower(exported).to_executorch().buffer)
    vouch(path)
    with pytest.raises(UserError, match="was not written by dirnet.deploy.export"):
        Program(path)
