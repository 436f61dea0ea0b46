import math

import pytest
import torch

from dirnet.deploy.streaming import KernelModel, StockModel, coded_groups, stored_codes
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.coded import CodedMatrix

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
def test_weights_are_stored_in_their_counted_bytes(model_of, rnn_type, options):
    model = model_of(rnn_type, **options)
    streaming = KernelModel(model)
    stored = sum(b.numel() * b.element_size() for n, b in streaming.named_buffers() if n not in ("mean", "istd"))
    counted = storage.stored_bytes(model)
    if options.get("block") == 6:  # cut in blocks of 2: more indices
        counted += sum(2 * g.blocks + 2 * (g.columns // 6) * 2 for g in model.rnn.groups)
    assert stored == counted


@pytest.mark.parametrize("block, start, stop", [(1, 0, 20), (8, 16, 48), (32, 32, 64), (12, 24, 48), (10, 25, 50)])
def test_slices_of_codes_keep_their_values(block, start, stop):
    columns = math.lcm(block, 2 * (stop - start))
    group = CodedMatrix(30, columns, 9, int(0.4 * 9 * columns / block), block)
    values, index, counts, kernel_block = stored_codes(group, start, stop)
    found = torch.ops.dirnet.project(torch.eye(9), None, values, index, counts, None, kernel_block)
    assert torch.equal(found, group.code_matrix()[:, start:stop])


def test_empty_codes_are_stored_as_one_zero_block():
    group = CodedMatrix(6, 16, 3, 0, 8)
    values, index, counts, block = stored_codes(group, 8, 16)
    assert (values.tolist(), index.tolist(), counts.tolist(), block) == ([0.0] * 8, [0], [1], 8)


def test_wide_dictionaries_have_two_byte_rows(model_of):
    group = CodedMatrix(300, 16, 257, 100, 8)
    assert stored_codes(group, 0, 16)[1].dtype == torch.uint16
    assert stored_codes(CodedMatrix(300, 16, 256, 100, 8), 0, 16)[1].dtype == torch.uint8


def test_dense_groups_are_the_transposed_weights(model_of):
    rnn = model_of(dense=True).rnn
    groups = coded_groups(rnn)
    assert torch.equal(groups[1].matrix(), torch.cat([rnn.weight_hh_l0, rnn.weight_ih_l1]).t())


def test_a_bidirectional_model_cannot_stream():
    config = AcousticModelConfig("lstm", 4, 1, tuple("ab"), num_outputs=2, bidirectional=True, name="two_way")
    with pytest.raises(UserError, match="two_way is bidirectional"):
        KernelModel(AcousticModel(config))
