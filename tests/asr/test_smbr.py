"""sMBR: exact against enumeration of all paths, its gradient against finite differences, float32 against float64."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from dirnet.asr.denominator import BLANK, DenominatorGraph
from dirnet.asr.phone_ngram import PhoneNgram
from dirnet.asr.smbr import expected_accuracy, frame_accuracy, smbr_loss
from dirnet.errors import UserError

LINES = [[0, 1, 2, 0], [1, 1, 0], [2], [0, 1, 0, 1, 2, 2], [2, 2, 2]]


def ngram_of(order: int, phones: int = 3) -> PhoneNgram:
    return PhoneNgram.estimate([[[(1.0, line)]] for line in LINES], phones, order)


@pytest.fixture
def graph() -> DenominatorGraph:
    return DenominatorGraph.build(ngram_of(2))


def random_log_probs(batch: int, frames: int, outputs: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, frames, outputs, dtype=torch.float64, generator=generator)).log_softmax(-1)


def collapse(path) -> list[int]:
    return [output for output, _ in itertools.groupby(path) if output != BLANK]


def enumerated(log_probs, accuracy, ngram, scale) -> float:
    """Expected accuracy, by listing every path of one utterance."""
    scores, accuracies = [], []
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        acoustic = sum(float(log_probs[t, s]) for t, s in enumerate(path))
        scores.append(scale * acoustic + math.log(ngram.probability([output - 1 for output in collapse(path)])))
        accuracies.append(sum(float(accuracy[t, s]) for t, s in enumerate(path)))
    return float(torch.tensor(scores, dtype=torch.float64).softmax(0) @ torch.tensor(accuracies, dtype=torch.float64))


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("scale, blank_weight", [(1.0, 1.0), (0.4, 0.2)])
def test_equals_the_sum_over_all_paths(order, scale, blank_weight, monkeypatch):
    monkeypatch.setattr("dirnet.asr.denominator.DENSE_STATES", 0 if order > 2 else 256)
    ngram = ngram_of(order)
    lengths, log_probs = torch.tensor([5, 3, 1]), random_log_probs(3, 5)
    alignments = torch.randint(0, 4, (3, 5), generator=torch.Generator().manual_seed(1))
    errors, largest = smbr_loss(log_probs, lengths, alignments, DenominatorGraph.build(ngram), scale, blank_weight)
    for row, length in enumerate(lengths.tolist()):
        weights = torch.where(alignments[row, :length] == BLANK, blank_weight, 1.0)
        accuracy = torch.nn.functional.one_hot(alignments[row, :length], 4) * weights[:, None]
        expected = float(weights.sum()) - enumerated(log_probs[row, :length], accuracy, ngram, scale)
        assert (float(errors[row]), float(largest[row])) == pytest.approx((expected, float(weights.sum())), abs=1e-6)


@pytest.mark.parametrize("order", [2, 3])
def test_gradient_is_that_of_finite_differences(order, monkeypatch):
    monkeypatch.setattr("dirnet.asr.denominator.DENSE_STATES", 0 if order > 2 else 256)
    graph, lengths = DenominatorGraph.build(ngram_of(order)), torch.tensor([4, 2])
    alignments = torch.tensor([[0, 1, 1, 2], [3, 0, 0, 0]])
    logits = random_log_probs(2, 4).requires_grad_()

    def loss(logits):
        return smbr_loss(logits.log_softmax(-1), lengths, alignments, graph, 0.7, 0.3)[0]

    assert torch.autograd.gradcheck(loss, (logits,))


def test_padding_and_order_change_nothing(graph):
    lengths, log_probs = torch.tensor([9, 4, 6]), random_log_probs(3, 9)
    alignments = torch.randint(0, 4, (3, 9))
    garbage = log_probs.clone()
    garbage[1, 4:], garbage[2, 6:] = float("nan"), float("inf")
    accuracy, _ = frame_accuracy(alignments, lengths, 4)
    together, gradient = expected_accuracy(garbage, lengths, accuracy.double(), graph)
    for row, length in enumerate(lengths.tolist()):
        here = slice(row, row + 1), slice(length)
        alone, alone_gradient = expected_accuracy(log_probs[here], lengths[[row]], accuracy[here].double(), graph)
        torch.testing.assert_close(together[[row]], alone)
        torch.testing.assert_close(gradient[here], alone_gradient)
        assert gradient[row, length:].eq(0).all()
    turned = torch.tensor([2, 0, 1])
    other, _ = expected_accuracy(garbage[turned], lengths[turned], accuracy[turned].double(), graph)
    torch.testing.assert_close(other, together[turned])


# posteriors of a random model, of a trained one, practically certain ones
@pytest.mark.parametrize("order, peak", [(2, 1), (3, 8), (2, 300)])
def test_float32_is_accurate_over_3000_frames(order, peak):
    graph, lengths = DenominatorGraph.build(ngram_of(order)), torch.tensor([3000, 2999])
    log_probs = (peak * random_log_probs(2, 3000)).log_softmax(-1)
    accuracy, _ = frame_accuracy(torch.randint(0, 4, (2, 3000)), lengths, 4, 0.8)
    exact, exact_gradient = expected_accuracy(log_probs, lengths, accuracy.double(), graph)
    rounded, gradient = expected_accuracy(log_probs.float(), lengths, accuracy, graph)
    assert rounded.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 4, 7, 30])
def test_computing_again_changes_nothing(graph, chunk):
    lengths, log_probs = torch.tensor([25, 13, 8]), random_log_probs(3, 25)
    accuracy = frame_accuracy(torch.randint(0, 4, (3, 25)), lengths, 4)[0].double()
    whole = expected_accuracy(log_probs, lengths, accuracy, graph, 0.7, chunk=25)
    for one, other in zip(expected_accuracy(log_probs, lengths, accuracy, graph, 0.7, chunk=chunk), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_long_utterances_are_computed_in_pieces(monkeypatch):
    """What is held at a time is sqrt(T) frames of states, not T."""
    held = []
    monkeypatch.setattr("dirnet.asr.smbr.WHOLE", 0)
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda parts: held.append(len(parts)) or stack(parts))
    lengths, log_probs = torch.tensor([900]), random_log_probs(1, 900)
    expected_accuracy(log_probs, lengths, torch.ones_like(log_probs), DenominatorGraph.build(ngram_of(2)))
    assert set(held) == {30}


def test_rows_without_a_reference_count_nothing(graph):
    log_probs = random_log_probs(2, 6).requires_grad_()
    alignments = torch.tensor([[1, 1, 0, 2, 2, 0], [-1] * 6])
    errors, largest = smbr_loss(log_probs, torch.tensor([6, 6]), alignments, graph)
    errors.sum().backward()
    assert errors[0] > 0 and largest[0] == 6
    assert errors[1] == 0 and largest[1] == 0 and log_probs.grad[1].eq(0).all() and log_probs.grad[0].ne(0).any()


def test_silence_counts_as_asked():
    alignment, lengths = torch.tensor([[1, 3, 0]]), torch.tensor([3])
    phone, most = frame_accuracy(alignment, lengths, 4, 0.5, "phone", (2, 3))
    assert phone[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0.5, 0, 0, 0]] and most.tolist() == [2.5]
    ignored, most = frame_accuracy(alignment, lengths, 4, 0.5, "ignore", (2, 3))
    assert ignored[0, 1].tolist() == [0, 0, 0, 0] and most.tolist() == [1.5]
    alike, most = frame_accuracy(alignment, lengths, 4, 0.5, "class", (2, 3))
    assert alike[0, 1].tolist() == [1, 0, 1, 1] and most.tolist() == [2.5]


def test_half_precision_is_computed_in_float32(graph):
    log_probs, lengths = random_log_probs(1, 40).bfloat16(), torch.tensor([40])
    alignments = torch.randint(0, 4, (1, 40))
    exact, _ = smbr_loss(log_probs.double(), lengths, alignments, graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors, _ = smbr_loss(log_probs.requires_grad_(), lengths, alignments, graph)
        errors.sum().backward()
    assert errors.dtype == torch.float32 and log_probs.grad.dtype == torch.bfloat16
    torch.testing.assert_close(errors.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_model_with_a_sparse_graph_can_be_copied(monkeypatch):
    """Torch refuses to copy sparse matrices; ESPnet's models are copied."""
    monkeypatch.setattr("dirnet.asr.denominator.DENSE_STATES", 0)
    graph = DenominatorGraph.build(ngram_of(3))
    assert not graph.arcs[0].layout == torch.strided
    assert copy.deepcopy({"graph": graph})["graph"] is graph


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"alignments": torch.zeros(2, 3).long()}, r"alignments \(2, 3\)"),
        ({"lengths": torch.tensor([5, 2])}, "lengths are 2 to 5, expected 1 to 4"),
        ({"log_probs": random_log_probs(2, 4, 3)}, "outputs above 2"),
        ({"silence": "quiet"}, "silence is 'quiet'"),
    ],
)
def test_mistakes(graph, changes, message):
    fine = {
        "log_probs": random_log_probs(2, 4), "lengths": torch.tensor([4, 2]), "alignments": torch.zeros(2, 4).long()
    }  # fmt: skip
    with pytest.raises(UserError, match=message):
        smbr_loss(**{**fine, "graph": graph, **changes})
