import torch

from dirnet.deploy import stock_programs
from dirnet.deploy.export import speech_like


@torch.no_grad()
def test_programs_are_exported_once_and_again_when_damaged_or_changed(model_of, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(stock_programs, "KEPT", 1)
    model = model_of("rnn", dense=True, layers=1)
    features = speech_like(model.cmvn_mean, model.cmvn_istd, 32)
    expected = model(features[None], torch.tensor([32]))[0][0]
    first = stock_programs.stock_program(model, "int8", 1)
    assert first.metadata["dtype"] == "int8" and "export: dense int8 program" in capsys.readouterr().err
    logits = first.stream(features)  # now: on ExecuTorch 1.4.1 loading another program once changed what this one says
    found = logits.log_softmax(dim=-1)
    assert 1e-6 < (found - expected).norm() / (expected - expected.mean(0)).norm() < 0.1
    assert stock_programs.stock_program(model, "int8", 1).sha256 == first.sha256
    assert capsys.readouterr().err == ""  # from the cache
    first.path.write_bytes(first.content[:-9])
    assert len(stock_programs.stock_program(model, "int8", 1).content) == len(first.content)
    assert "export:" in capsys.readouterr().err
    model.output.bias += 1
    changed = stock_programs.stock_program(model, "int8", 1)
    assert list(tmp_path.rglob("*.pte")) == [changed.path] != [first.path]  # the older one went
    torch.testing.assert_close(changed.stream(features), logits + 1, atol=1e-5, rtol=1e-5)


def test_the_key_knows_dtype_chunk_and_weights(model_of):
    model, other = model_of(dense=True), model_of(dense=True, seed=1)
    keys = {stock_programs._key(*case) for case in
            ((model, "fp32", 1), (model, "int8", 1), (model, "fp32", 8), (other, "fp32", 1))}  # fmt: skip
    assert len(keys) == 4 and stock_programs._key(model, "fp32", 1) in keys


def test_a_program_that_goes_while_older_ones_are_dropped(tmp_path):
    (tmp_path / "dense-gone.pte").symlink_to(tmp_path / "nothing")  # listed, but not there, as when another drops it
    stock_programs._prune(tmp_path)
