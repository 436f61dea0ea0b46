"""Checkpoints: nothing is loaded that does not fit, nothing is lost between ESPnet's model and the neutral one."""

from __future__ import annotations

import pytest
import torch
import yaml
from tiny_corpus import TOKENS

from dirnet.asr.ark import Matrices
from dirnet.errors import UserError
from dirnet.espnet import checkpoint
from dirnet.espnet.encoder import RecurrentEncoder
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


@pytest.fixture(scope="module")
def espnet_model(trained):
    """The trained model as ESPnet itself builds and loads it."""
    from espnet2.tasks.asr import ASRTask

    return ASRTask.build_model_from_file(trained.exp / "config.yaml", trained.exp / "model.pth")[0].eval()


def test_neutral_model_gives_espnets_posteriors(trained, espnet_model):
    features = [torch.tensor(matrix) for matrix in list(Matrices(trained.root / "dump/dev/feats.scp").values())[:4]]
    lengths = torch.tensor([len(matrix) for matrix in features])
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    with torch.no_grad():
        encoded, steps = espnet_model.encode(batch.clone(), lengths)
        theirs = espnet_model.ctc.log_softmax(encoded)
        ours, same = storage.load(trained.exp)(batch, lengths)
    assert torch.equal(steps, same)
    for row, length in enumerate(steps.tolist()):
        torch.testing.assert_close(ours[row, :length], theirs[row, :length, :-2], rtol=0, atol=1e-4)


def test_there_and_back(trained, tmp_path):
    conf, state = checkpoint.read_initial(trained.exp, TOKENS)
    config = yaml.safe_load((trained.exp / "config.yaml").read_text())
    assert conf["hidden_size"] == 24 and conf["compression"] is None
    back = checkpoint.neutral_model(config, state)
    for name, value in storage.load(trained.exp).state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value)
    from_espnet, own = checkpoint.read_initial(trained.exp / "model.pth", TOKENS)
    assert from_espnet["hidden_size"] == 24 and own.keys() == state.keys()


def test_shifts_and_a_shared_input_reach_the_encoder():
    config = AcousticModelConfig(
        "lstm", 15, 1, tuple("-abc"), feature_size=5, context=1, num_outputs=4, compression=([4, 30],), block=2,
        shifts=1, shift_kind="zero", input_group="shared",
    )  # fmt: skip
    model = AcousticModel(config).eval()
    model.rnn.groups[0].offsets.random_(-1, 2)
    encoder = RecurrentEncoder(15, **checkpoint.encoder_conf(model)).eval()
    state = checkpoint.espnet_state(model, 6)
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    x = torch.randn(2, 7, 15)
    assert torch.equal(encoder(x, torch.tensor([7, 7]))[0], model.rnn(x)[0])


def test_another_token_list_is_named(trained):
    with pytest.raises(UserError, match="output 2 is 'B', the token list has 'BB'"):
        checkpoint.read_initial(trained.exp, [token.replace("B", "BB") if token == "B" else token for token in TOKENS])


def test_one_of_several_best_models_has_to_be_named(tmp_path):
    for name in ("valid.acc.best.pth", "valid.loss.best.pth"):
        torch.save({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(UserError, match="valid.acc.best.pth, valid.loss.best.pth; name the one"):
        checkpoint.read_initial(tmp_path, TOKENS)
    assert checkpoint.read_initial(tmp_path / "valid.loss.best.pth", TOKENS)[1].keys() == {"a"}


def test_differences_are_named(tmp_path):
    ours = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    theirs = {"a": torch.zeros(2), "b": torch.zeros(4), "d": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        checkpoint.check_fits(theirs, ours, tmp_path)
    for part in ("another architecture", "c is missing", "d is unknown", "b is [4] there, [3] here"):
        assert part in str(caught.value)
    checkpoint.check_fits(ours, ours, tmp_path)


def test_average_leaves_integers_alone(tmp_path):
    for number in (1, 2):
        torch.save({"w": torch.full((2,), float(number)), "index": torch.tensor([3, 5])}, tmp_path / f"{number}.pth")
    mean = checkpoint.average([tmp_path / "1.pth", tmp_path / "2.pth"])
    assert mean["w"].tolist() == [1.5, 1.5] and mean["index"].tolist() == [3, 5]
    torch.save({"w": torch.zeros(2), "index": torch.tensor([3, 6])}, tmp_path / "3.pth")
    with pytest.raises(RuntimeError, match="index changed"):
        checkpoint.average([tmp_path / "1.pth", tmp_path / "3.pth"])


def test_damaged_and_missing_checkpoints(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load_state(tmp_path / "none.pth")
    torch.save({"w": torch.zeros(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load_state(tmp_path / "cut.pth")


def test_a_write_that_was_killed_is_undone(tmp_path):
    state = {"reporter": {"epoch": 3}, "model": {"w": torch.ones(1)}}
    torch.save(state, tmp_path / checkpoint.PREVIOUS)
    for name in (checkpoint.CHECKPOINT, "4epoch.pth"):
        (tmp_path / name).write_bytes(b"PK half a file")
    torch.save({"w": torch.zeros(1)}, tmp_path / "3epoch.pth")
    checkpoint.recover(tmp_path)
    assert checkpoint.load_state(tmp_path / checkpoint.CHECKPOINT) == state
    assert not checkpoint.load_state(tmp_path / "3epoch.pth")["w"].any()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["3epoch.pth", checkpoint.CHECKPOINT]
    checkpoint.recover(tmp_path)  # nothing left to do


@pytest.mark.parametrize("left", [None, b"PK half a file"])
def test_a_checkpoint_brings_back_the_model_of_its_epoch(tmp_path, left):
    """Killed after ESPnet's checkpoint and before, or in, its model."""
    torch.save({"reporter": {"epoch": 2}, "model": {"w": torch.ones(3)}}, tmp_path / checkpoint.CHECKPOINT)
    if left:
        (tmp_path / "2epoch.pth").write_bytes(left)
    checkpoint.recover(tmp_path)
    assert torch.equal(checkpoint.load_state(tmp_path / "2epoch.pth")["w"], torch.ones(3))
