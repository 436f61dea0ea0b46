import pytest
import torch

from dirnet.deploy.packing import ALIGNMENT, HEADER_BYTES
from dirnet.deploy.streaming import KernelModel, StockModel, coded_groups
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig

CASES = [
    ("lstm", {"block": 8}), ("gru", {"block": 4}), ("rnn", {"block": 1}), ("lstm", {"atoms": None}),
    ("gru", {"atoms": None, "block": 8}), ("lstm", {"density": None}), ("lstm", {"dense": True}),
    ("gru", {"dense": True}), ("lstm", {"block": 6}), ("rnn", {"block": 8, "frame_stride": 3}),
]  # fmt: skip


def run(streaming, model, features, chunks):
    """Log posteriors of `streaming` over an utterance, in chunks."""
    stride, context = streaming.stride, streaming.context
    pad = model.cmvn_mean.expand(context, -1)
    missing = sum(chunks) * stride - len(features)
    padded = torch.cat([pad, features, model.cmvn_mean.expand(missing, -1), pad])
    states, logits, first = streaming.initial_states(), [], 0
    for frames in chunks:
        y, *states = streaming(padded[first * stride : (first + frames) * stride + 2 * context], *states)
        logits.append(y)
        first += frames
    return torch.cat(logits).log_softmax(dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("rnn_type, options", CASES)
def test_chunks_equal_the_eager_model(model_of, rnn_type, options):
    model = model_of(rnn_type, **options)
    features = model.cmvn_mean + torch.randn(16 * model.config.frame_stride, 26) / model.cmvn_istd
    expected = model(features[None], torch.tensor([len(features)]))[0][0]
    kernels = KernelModel(model)
    for streaming, chunks in ((kernels, [7, 9]), (kernels, [16]), (StockModel(model, 4), [4] * 4)):
        torch.testing.assert_close(run(streaming, model, features, chunks), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("rnn_type, options", CASES)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_are_stored_in_their_counted_bytes(model_of, rnn_type, options, dtype):
    if "dense" in options:
        dtype = "float32"
    model = model_of(rnn_type, dtype=dtype, **options)
    streaming = KernelModel(model)
    stored = sum(b.numel() * b.element_size() for n, b in streaming.named_buffers() if n not in ("mean", "istd"))
    counted = storage.stored_bytes(model)
    if options.get("block") == 6:  # cut in blocks of 2: more indices
        counted += sum(2 * g.blocks + 2 * (g.columns // 6) * 2 for g in model.rnn.groups)
    if dtype == "int8" and options.get("atoms", 1) is None:  # both consumers of h scale its rows
        counted += sum(2 * g.rows for g in model.rnn.groups[1:-1])
    assert 0 <= stored - counted <= model.config.num_layers * (HEADER_BYTES + 12 * ALIGNMENT)


def test_dense_groups_are_the_transposed_weights(model_of):
    rnn = model_of(dense=True).rnn
    groups = coded_groups(rnn)
    assert torch.equal(groups[1].matrix(), torch.cat([rnn.weight_hh_l0, rnn.weight_ih_l1]).t())


def test_a_bidirectional_model_cannot_stream():
    config = AcousticModelConfig("lstm", 4, 1, tuple("ab"), num_outputs=2, bidirectional=True, name="two_way")
    with pytest.raises(UserError, match="two_way is bidirectional"):
        KernelModel(AcousticModel(config))
