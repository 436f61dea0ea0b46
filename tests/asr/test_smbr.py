"""sMBR: exact against enumeration of all paths, its gradient against finite differences, its Viterbi against search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dirnet.asr.smbr import BLANK, DenominatorGraph, PhoneBigram, align, expected_accuracy, smbr_loss
from dirnet.errors import UserError

PHONES = ["A", "B", "C"]


@pytest.fixture
def bigram() -> PhoneBigram:
    return PhoneBigram.estimate(["u1 A B C A", "u2 B B A", "u3 C"], PHONES)


def random_log_probs(batch: int, frames: int, outputs: int = 4, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return (2 * torch.randn(batch, frames, outputs, dtype=torch.float64)).log_softmax(-1)


def collapse(path) -> list[int]:
    return [output for output, _ in itertools.groupby(path) if output != BLANK]


def bigram_score(phones: list[int], bigram: PhoneBigram) -> float:
    if not phones:
        return float(bigram.empty)
    score = bigram.start[phones[0] - 1] + bigram.end[phones[-1] - 1]
    return float(score + sum(bigram.bigram[a - 1, b - 1] for a, b in itertools.pairwise(phones)))


def enumerated(log_probs, reference, bigram, scale, blank_weight) -> tuple[float, float]:
    """Expected errors and the largest accuracy, by listing every path of one utterance."""
    weights = [blank_weight if output == BLANK else 1.0 for output in reference]
    scores, accuracies = [], []
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        acoustic = sum(float(log_probs[t, s]) for t, s in enumerate(path))
        scores.append(scale * acoustic + bigram_score(collapse(path), bigram))
        accuracies.append(sum(w for s, r, w in zip(path, reference, weights, strict=True) if s == r))
    posterior = torch.tensor(scores, dtype=torch.float64).softmax(0)
    return sum(weights) - float(posterior @ torch.tensor(accuracies, dtype=torch.float64)), sum(weights)


@pytest.mark.parametrize("scale, blank_weight", [(1.0, 1.0), (0.4, 0.2)])
def test_equals_the_sum_over_all_paths(bigram, scale, blank_weight):
    lengths = torch.tensor([5, 3, 1])
    log_probs = random_log_probs(3, 5)
    alignments = torch.randint(0, 4, (3, 5))
    errors, largest = smbr_loss(log_probs, lengths, alignments, DenominatorGraph.build(bigram), scale, blank_weight)
    for row, length in enumerate(lengths.tolist()):
        expected = enumerated(log_probs[row, :length], alignments[row, :length].tolist(), bigram, scale, blank_weight)
        assert (float(errors[row]), float(largest[row])) == pytest.approx(expected, abs=1e-9)


def test_gradient_is_that_of_finite_differences(bigram):
    graph, lengths = DenominatorGraph.build(bigram), torch.tensor([4, 2])
    alignments = torch.tensor([[0, 1, 1, 2], [3, 0, 0, 0]])
    logits = random_log_probs(2, 4).requires_grad_()

    def loss(logits):
        return smbr_loss(logits.log_softmax(-1), lengths, alignments, graph, 0.7, 0.3)[0]

    assert torch.autograd.gradcheck(loss, (logits,))


def test_padding_changes_nothing(bigram):
    graph, alignments = DenominatorGraph.build(bigram), torch.randint(0, 4, (2, 9))
    log_probs = random_log_probs(2, 9)
    alone = [
        smbr_loss(log_probs[i, None, :n], torch.tensor([n]), alignments[i, None, :n], graph)
        for i, n in ((0, 9), (1, 4))
    ]
    garbage = log_probs.clone()
    garbage[1, 4:] = 55.0
    together = smbr_loss(garbage, torch.tensor([9, 4]), alignments, graph)
    for one, both in zip(zip(*alone, strict=True), together, strict=True):
        torch.testing.assert_close(torch.cat(one), both)
    _, gradient = expected_accuracy(garbage, torch.tensor([9, 4]), torch.ones_like(garbage), graph)
    assert gradient[1, 4:].eq(0).all()


def test_long_utterances_with_certain_posteriors_stay_finite(bigram):
    log_probs = (300 * random_log_probs(1, 3000)).log_softmax(-1).requires_grad_()
    reference = log_probs.detach().argmax(-1)
    errors, largest = smbr_loss(log_probs, torch.tensor([3000]), reference, DenominatorGraph.build(bigram))
    errors.sum().backward()
    assert torch.isfinite(errors).all() and torch.isfinite(log_probs.grad).all()
    assert 0 <= errors.item() < 0.01 * float(largest)


def test_float32_input_is_accurate(bigram):
    graph, lengths, alignments = DenominatorGraph.build(bigram), torch.tensor([60]), torch.randint(0, 4, (1, 60))
    log_probs = random_log_probs(1, 60)
    exact, rounded = (smbr_loss(x, lengths, alignments, graph)[0] for x in (log_probs, log_probs.float()))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=0)


def test_alignment_is_the_best_path_of_the_transcript():
    log_probs, lengths = random_log_probs(4, 6, seed=3), torch.tensor([6, 5, 4, 6])
    targets, sizes = torch.tensor([[1, 2, 3], [2, 2, -1], [3, -1, -1], [-1, -1, -1]]), torch.tensor([3, 2, 1, 0])
    found = align(log_probs, lengths, targets, sizes)
    for row, length in enumerate(lengths.tolist()):
        wanted = targets[row, : sizes[row]].tolist()
        paths = [p for p in itertools.product(range(4), repeat=length) if collapse(p) == wanted]
        best = max(paths, key=lambda p, row=row: sum(float(log_probs[row, t, s]) for t, s in enumerate(p)))
        assert found[row, :length].tolist() == list(best)
        assert found[row, length:].eq(BLANK).all()


def test_too_short_for_ctc_is_named():
    with pytest.raises(UserError, match="2 frames for 2 phones"):
        align(random_log_probs(1, 2), torch.tensor([2]), torch.tensor([[1, 1]]), torch.tensor([2]))


def test_bigram_is_a_distribution_and_survives_storage(bigram, tmp_path):
    total = bigram.bigram.exp().sum(1) + bigram.end.exp()
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64))
    assert float(bigram.start.exp().sum() + bigram.empty.exp()) == pytest.approx(1)
    assert bigram.bigram[0, 1] > bigram.bigram[0, 2]  # A B was seen, A C was not
    bigram.save(tmp_path / "bigram.npz")
    assert torch.equal(PhoneBigram.load(tmp_path / "bigram.npz").bigram, bigram.bigram)
    assert PhoneBigram.uniform(3).bigram.exp().allclose(torch.tensor(0.25, dtype=torch.float64))


def test_bigram_mistakes(tmp_path):
    with pytest.raises(UserError, match="u7 has 'X'"):
        PhoneBigram.estimate(["u7 A X"], PHONES)
    with pytest.raises(UserError, match="does not exist"):
        PhoneBigram.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", start=np.zeros(3))
    with pytest.raises(UserError, match="damaged"):
        PhoneBigram.load(tmp_path / "other.npz")
