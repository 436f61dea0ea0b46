import pytest
import torch

from dirnet.deploy import engines, library, onnx_engine, torch_engine
from dirnet.deploy.export import speech_like
from dirnet.errors import UserError


@pytest.fixture
def model(model_of):
    return model_of(dense=True)


@pytest.fixture
def features(model):
    return speech_like(model.cmvn_mean, model.cmvn_istd, 50)


def test_every_engine_gives_the_logits_of_torch(model, features, capsys):
    library.build()
    capsys.readouterr()  # which tells where it had to compile
    found = engines.dense_engines(model, features, (1, 8), (), 1)
    names = {(engine.name, engine.dtype, engine.chunk) for engine in found}
    peers = {("torch", "fp32"), ("torch", "int8"), ("executorch dirnet", "fp32"), ("executorch dirnet", "int8")}
    if onnx_engine.available():
        peers |= {("onnxruntime", "fp32"), ("onnxruntime", "int8")}
        assert capsys.readouterr().err == ""
    assert names == {(*peer, chunk) for peer in peers for chunk in (1, 8)}
    expected = model(features[None], torch.tensor([50]))[0][0]  # another way to the windows than the engines'
    for engine in found:
        states, logits = engine.runner.initial_states(), []
        for window in engine.windows:
            engine.runner.prepare(window, states)
            engine.runner.compute()
            y, states = engine.runner.results()
            logits.append(y.clone())
        logits = torch.cat(logits)
        assert len(logits) == -(-50 // engine.chunk) * engine.chunk and engine.frame_ms == 10
        difference = (logits[:50].log_softmax(-1) - expected).abs().max()
        assert difference < (1e-4 if engine.dtype == "fp32" else 0.1), (engine.name, engine.dtype)


def test_a_wrong_engine_is_left_out_and_named(model, features, capsys, monkeypatch):
    class Swapped(torch_engine.TorchModel):  # input and forget gate changed places
        def __init__(self, model, quantised=None):
            super().__init__(model)
            self.rnn = torch.nn.LSTM(494, 24, 2, batch_first=True)
            for name, weight in model.rnn.state_dict().items():
                i, f, g, o = weight.chunk(4)
                self.rnn.state_dict()[name].copy_(torch.cat([f, i, g, o]))

    monkeypatch.setattr(torch_engine, "TorchModel", Swapped)
    monkeypatch.setattr(onnx_engine, "available", lambda: False)
    found = engines.dense_engines(model, features, (1, 4), (), 1)
    assert {(engine.name, engine.dtype) for engine in found} == \
        {("executorch dirnet", "fp32"), ("executorch dirnet", "int8")}  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" is left out: ")[0] for line in lines] == \
        ["torch fp32", "onnxruntime fp32", "torch int8", "onnxruntime int8"]  # fmt: skip
    assert "differ from torch's by" in lines[0] and "not installed" in lines[1] and "differ" in lines[2]


def test_the_bound_depends_on_the_dtype_and_refuses_nan(model, features):
    windows = engines._windows(model, features, 5)
    expected = engines.expected_logits(model, windows)

    def engine(dtype, noise):
        runner = torch_engine.TorchModel(model)
        results = runner.results
        runner.results = lambda: (results()[0] + noise * torch.randn(5, 42), results()[1])
        return engines.Engine("x", 5, 10.0, runner, windows, dtype)

    scale = float((expected - expected.mean(0)).std())
    assert engines.check(engine("int8", 0.1 * scale), expected) == pytest.approx(0.1, rel=0.2)
    for dtype, noise in (("fp32", 0.1 * scale), ("int8", scale), ("int8", float("nan"))):
        with pytest.raises(UserError, match="logits for 5 outputs a call differ"):
            engines.check(engine(dtype, noise), expected)


def test_bytes_are_those_of_the_stored_weights(model, exports):
    from dirnet.deploy.program import Program
    from dirnet.nn import storage

    assert engines.dense_bytes(model, "fp32") == storage.stored_bytes(model)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1) + sum(len(m) for m in matrices)
    assert engines.dense_bytes(model, "int8") == sum(m.numel() for m in matrices) + 4 * vectors
    compressed, dense = (storage.load(exports / name) for name in ("compressed", "dense"))
    extra = engines.weight_bytes(Program(exports / "compressed/encoder.pte")) - storage.stored_bytes(compressed)
    assert 0 <= extra < 2000  # headers and alignment
    assert engines.weight_bytes(Program(exports / "dense/encoder.pte")) == storage.stored_bytes(dense)
