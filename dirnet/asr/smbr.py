"""State-level minimum Bayes risk over phone-bigram x CTC paths (Kingsbury 2009).

A path names one output, a phone or blank (index 0), per frame. Its accuracy is the sum over the frames where it agrees
with the reference alignment `r_t` of `blank_weight` where `r_t` is blank and 1 elsewhere. The paths of the denominator
score `acoustic_scale * log y + phone bigram`, and the criterion is the expected accuracy `F` under the softmax of
these scores. One forward-backward pass in the expectation semiring, on log-weights in double precision, gives `F` and
`dF / d log y_t(s) = acoustic_scale * gamma_t(s) (A_t(s) - F)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dirnet.errors import UserError
from dirnet.files import atomic_write

BLANK = 0


@dataclass(frozen=True)
class PhoneBigram:
    """Log-probabilities of phone sequences over V phones, whose outputs are 1..V.

    start (V,): first phone; bigram (V, V): row phone, then column phone; end (V,): phone, then the end; empty (): no
    phone at all.
    """

    start: Tensor
    bigram: Tensor
    end: Tensor
    empty: Tensor

    @classmethod
    def uniform(cls, phones: int) -> PhoneBigram:
        """Every phone and the end equally likely everywhere."""
        return cls.from_counts(np.zeros((phones + 1, phones + 1)))

    @classmethod
    def estimate(cls, lines: Iterable[str], phones: Sequence[str]) -> PhoneBigram:
        """From transcripts, one `UTT P1 P2 ...` a line; a phone outside `phones` is a `UserError`."""
        place = {phone: number for number, phone in enumerate(phones)}
        counts = np.zeros((len(phones) + 1, len(phones) + 1))
        for line in lines:
            utterance, *names = line.split()
            unknown = next((name for name in names if name not in place), None)
            if unknown is not None:
                raise UserError(f"transcript of {utterance} has {unknown!r}, not in the phone list; mend either")
            path = [len(phones), *(place[name] for name in names), len(phones)]
            np.add.at(counts, (path[:-1], path[1:]), 1)
        return cls.from_counts(counts)

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> PhoneBigram:
        """From the counts (V + 1, V + 1) of successions, the last row and column being the sentence boundary.

        Witten-Bell: a history's unseen mass is shared out by how often a phone follows anything, plus one.
        """
        follows = counts.sum(axis=0) + 1.0
        kinds = np.maximum((counts > 0).sum(axis=1, keepdims=True), 1)
        log = np.log((counts + kinds * follows / follows.sum()) / (counts.sum(axis=1, keepdims=True) + kinds))
        log = torch.from_numpy(log)
        return cls(start=log[-1, :-1], bigram=log[:-1, :-1], end=log[:-1, -1], empty=log[-1, -1])

    def save(self, path: str | Path) -> None:
        """Write the four tables as an .npz file."""
        with atomic_write(path, "wb") as stream:
            np.savez(stream, **{field.name: getattr(self, field.name).numpy() for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> PhoneBigram:
        """Read what `save` wrote."""
        try:
            with np.load(path) as tables:
                return cls(**{field.name: torch.from_numpy(tables[field.name]) for field in fields(cls)})
        except FileNotFoundError:
            raise UserError(f"phone bigram {path} does not exist; run sMBR training from its first stage") from None
        except (KeyError, ValueError, OSError) as error:
            raise UserError(f"phone bigram {path} is damaged ({error}); delete it and run again") from None


@dataclass(frozen=True)
class DenominatorGraph:
    """The CTC topology over a phone bigram, as dense tables; V phones give 2V + 1 states.

    State v < V: phone v is spoken; state V + v: blank after phone v; state 2V: blank before any phone. `enter` (S,)
    and `leave` (S,) are the log-weights of starting and ending in a state, `arcs` (S, S) of stepping from row to
    column, `outputs` (S,) the network output of each state.
    """

    enter: Tensor
    arcs: Tensor
    leave: Tensor
    outputs: Tensor

    @classmethod
    def build(cls, phones: PhoneBigram) -> DenominatorGraph:
        """The graph of a bigram, float64 on the CPU."""
        v = len(phones.start)
        never = -torch.inf
        enter = torch.full((2 * v + 1,), never, dtype=torch.float64)
        enter[:v], enter[2 * v] = phones.start, 0.0
        arcs = torch.full((2 * v + 1, 2 * v + 1), never, dtype=torch.float64)
        speak, silent = torch.arange(v), torch.arange(v, 2 * v)
        arcs[:v, :v] = phones.bigram
        arcs[speak, speak] = 0.0  # the same phone goes on; saying it twice takes a blank between
        arcs[speak, silent] = arcs[silent, silent] = 0.0
        arcs[v : 2 * v, :v] = phones.bigram
        arcs[2 * v, :v] = phones.start
        arcs[2 * v, 2 * v] = 0.0
        leave = torch.cat([phones.end, phones.end, phones.empty.reshape(1)]).double()
        outputs = torch.cat([speak + 1, torch.full((v + 1,), BLANK)])
        return cls(enter, arcs, leave, outputs)

    def to(self, device: torch.device) -> DenominatorGraph:
        """The same tables on `device`."""
        return DenominatorGraph(*(getattr(self, field.name).to(device) for field in fields(self)))


def expected_accuracy(
    log_probs: Tensor, lengths: Tensor, accuracy: Tensor, graph: DenominatorGraph, acoustic_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Expectation-semiring forward-backward.

    log_probs (B, T, C); lengths (B,); accuracy (B, T, C): what output c earns at frame t. Returns `F` (B,) and
    `dF / d log_probs` (B, T, C), zero behind the lengths, both float64.
    """
    frames = log_probs.shape[1]
    emission = acoustic_scale * log_probs.detach().double()[:, :, graph.outputs]  # (B, T, S)
    earned = accuracy.double()[:, :, graph.outputs]
    arcs = graph.arcs.exp()
    alpha, gain = torch.empty_like(emission), torch.empty_like(emission)  # log-sum and mean accuracy of prefixes
    alpha[:, 0], gain[:, 0] = graph.enter + emission[:, 0], earned[:, 0]
    for t in range(1, frames):
        total, mean = _step(alpha[:, t - 1], gain[:, t - 1], arcs)
        alpha[:, t], gain[:, t] = emission[:, t] + total, earned[:, t] + mean

    beta, rest = torch.empty_like(emission), torch.empty_like(emission)  # the same of suffixes, frame t left out
    beta[:, frames - 1], rest[:, frames - 1] = graph.leave, 0.0
    for t in range(frames - 2, -1, -1):
        total, mean = _step(emission[:, t + 1] + beta[:, t + 1], earned[:, t + 1] + rest[:, t + 1], arcs.T)
        last = (lengths - 1 <= t)[:, None]
        beta[:, t], rest[:, t] = torch.where(last, graph.leave, total), torch.where(last, 0.0, mean)

    complete = alpha + beta
    partition = complete[:, 0].logsumexp(dim=1)
    gamma = (complete - partition[:, None, None]).exp()
    through = gain + rest  # mean accuracy of the paths through a state
    expected = (gamma[:, 0] * through[:, 0]).sum(dim=1)
    by_state = acoustic_scale * gamma * (through - expected[:, None, None])
    inside = torch.arange(frames, device=lengths.device) < lengths[:, None]
    by_state = torch.where(inside[:, :, None], by_state, 0.0)
    gradient = torch.zeros(log_probs.shape, dtype=torch.float64, device=log_probs.device)
    return expected, gradient.index_add_(2, graph.outputs, by_state)


def _step(weights: Tensor, means: Tensor, arcs: Tensor) -> tuple[Tensor, Tensor]:
    """One frame of the semiring: log-weights and means (B, S) carried over `arcs` (S, S), which are plain weights.

    The largest weight is taken out before the exponential, so products stay in double's range however long the path.
    """
    shift = weights.max(dim=1, keepdim=True).values
    scaled = (weights - shift).exp()
    total = scaled @ arcs
    return total.log() + shift, (scaled * means) @ arcs / total.clamp(min=torch.finfo(total.dtype).tiny)


class _ExpectedAccuracy(torch.autograd.Function):
    @staticmethod
    def forward(context, log_probs, lengths, accuracy, graph, acoustic_scale):
        expected, gradient = expected_accuracy(log_probs, lengths, accuracy, graph, acoustic_scale)
        context.save_for_backward(gradient.to(log_probs.dtype))
        return expected.to(log_probs.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, upstream):
        (gradient,) = context.saved_tensors
        return upstream[:, None, None] * gradient, None, None, None, None


def smbr_loss(
    log_probs: Tensor,
    lengths: Tensor,
    alignments: Tensor,
    graph: DenominatorGraph,
    acoustic_scale: float = 1.0,
    blank_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Expected state errors per utterance and the largest accuracy each could have, both (B,).

    log_probs (B, T, C), differentiable; lengths (B,); alignments (B, T): the reference output of every frame, as
    `align` gives it (anything behind the lengths). 1 - errors / largest is the expected accuracy, a fraction.
    """
    frames = torch.arange(log_probs.shape[1], device=lengths.device)
    weight = log_probs.new_ones(alignments.shape).masked_fill(alignments == BLANK, blank_weight)
    weight = weight * (frames < lengths[:, None])
    accuracy = torch.zeros_like(log_probs, requires_grad=False)
    accuracy.scatter_(2, alignments.clamp(min=0)[:, :, None], weight[:, :, None])
    largest = weight.sum(dim=1)
    return largest - _ExpectedAccuracy.apply(log_probs, lengths, accuracy, graph, acoustic_scale), largest


@torch.no_grad()
def align(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """The best CTC path of each transcript (Viterbi), batched.

    log_probs (B, T, C); targets (B, U) outputs 1..C-1, padded with anything. Returns (B, T) outputs, blank behind the
    lengths. An utterance with fewer frames than phones plus repeats has no path: a `UserError`.
    """
    batch, frames, _ = log_probs.shape
    states = 2 * targets.shape[1] + 1
    device = log_probs.device
    labels = torch.full((batch, states), BLANK, device=device)
    labels[:, 1::2] = targets.clamp(min=0)
    emission = log_probs.gather(2, labels[:, None, :].expand(-1, frames, -1))
    skip = torch.zeros_like(labels, dtype=torch.bool)  # a phone may follow the phone before the blank, unless equal
    skip[:, 3::2] = labels[:, 3::2] != labels[:, 1:-2:2]
    score = torch.full((batch, states), -torch.inf, device=device, dtype=log_probs.dtype)
    score[:, :2] = emission[:, 0, :2]
    from_before = torch.full((batch, frames, states), 0, dtype=torch.int8, device=device)
    never = score.new_full((batch, 2), -torch.inf)
    for t in range(1, frames):
        shifted = torch.cat([never, score], dim=1)
        two = torch.where(skip, shifted[:, :-2], -torch.inf)
        best, from_before[:, t] = _best_of_three(score, shifted[:, 1:-1], two)
        score = torch.where((t < lengths)[:, None], best + emission[:, t], score)

    end = 2 * target_lengths.to(device)[:, None]
    ends = torch.cat([end, (end - 1).clamp(min=0)], dim=1)
    final = score.gather(1, ends)
    if bool((final.max(dim=1).values == -torch.inf).any()):
        row = int((final.max(dim=1).values == -torch.inf).nonzero()[0])
        raise UserError(
            f"utterance {row} of a batch has {int(lengths[row])} frames for {int(target_lengths[row])} phones, "
            "too few for a CTC path; leave it out"
        )
    state = ends.gather(1, final.argmax(dim=1, keepdim=True))
    path = torch.full((batch, frames), BLANK, device=device)
    for t in range(frames - 1, -1, -1):
        inside = (t < lengths)[:, None]
        path[:, t : t + 1] = torch.where(inside, labels.gather(1, state), BLANK)
        state = torch.where(inside, state - from_before[:, t].gather(1, state), state)
    return path


def _best_of_three(stay: Tensor, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of three scores and how many states back it came from (int8)."""
    best, steps = torch.stack([stay, one, two]).max(dim=0)
    return best, steps.to(torch.int8)
