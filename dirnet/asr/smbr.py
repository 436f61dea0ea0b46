"""State-level minimum Bayes risk over all paths of a denominator graph (Kingsbury 2009; for CTC, Sak et al. 2015).

A path names one output, a phone or blank (index 0), per frame. Its accuracy is what its outputs earn, frame by frame;
it weighs `exp(acoustic_scale * sum_t log y_t)` times its weight in the graph. The criterion is the expected accuracy
`F` under the weights normalised over all paths. One forward-backward pass in the expectation semiring (Eisner 2002)
gives `F` and `dF / d log y_t(s) = acoustic_scale * gamma_t(s) (A_t(s) - F)`, where gamma is the share of the paths
through s at frame t, and A their mean accuracy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dirnet.asr.denominator import BLANK, DenominatorGraph
from dirnet.errors import UserError

WHOLE = 1 << 24  # states x frames x utterances up to which all frames are kept in memory at a time


def smbr_loss(
    log_probs: Tensor,
    lengths: Tensor,
    alignments: Tensor,
    graph: DenominatorGraph,
    acoustic_scale: float = 1.0,
    blank_weight: float = 1.0,
    silence: str = "phone",
    silence_outputs: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Expected frame errors per utterance and the largest accuracy each could have, both (B,), in frames.

    errors = sum_t w(r_t) - E[sum_t w(r_t) 1(s_t = r_t)], w(r) being `blank_weight` for blank and 1 for a phone;
    1 - errors / largest is the expected accuracy, a fraction.

    log_probs (B, T, C): natural logarithms, differentiable; computed in float32, or float64 if that is what comes in,
        also under autocast.
    lengths (B,): frames of each, 1 to T; what lies behind does not count.
    alignments (B, T): the reference output r_t of every frame, as `dirnet.asr.alignment.align` gives it. A row that
        begins with a negative number has no reference: it is skipped, both of its results and its gradient are 0.
    graph: its outputs are below C.
    silence: how frames with a reference in `silence_outputs` count: `phone`: like any phone; `ignore`: not at all
        (Kaldi's `--silence-phones`; Vesely et al. 2013); `class`: any of them or blank is right (Kaldi's
        `--one-silence-class`).
    Shapes or values that do not fit are a `UserError`.
    """
    _check(log_probs, lengths, alignments, graph, silence)
    accuracy, largest = frame_accuracy(
        alignments, lengths.to(alignments.device), log_probs.shape[2], blank_weight, silence, silence_outputs
    )
    accuracy = accuracy.to(torch.promote_types(log_probs.dtype, torch.float32))
    expected = _ExpectedAccuracy.apply(log_probs, lengths, accuracy, graph, acoustic_scale)
    return largest.to(expected.dtype) - expected, largest.to(expected.dtype)


def frame_accuracy(
    alignments: Tensor,
    lengths: Tensor,
    outputs: int,
    blank_weight: float = 1.0,
    silence: str = "phone",
    silence_outputs: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """What each output earns at each frame (B, T, C), and the most that a path can earn (B,); float32."""
    frames = torch.arange(alignments.shape[1], device=alignments.device)
    inside = (frames < lengths[:, None]) & (alignments[:, :1] >= 0)
    weight = torch.where(alignments == BLANK, blank_weight, 1.0) * inside
    quiet = torch.isin(alignments, alignments.new_tensor(silence_outputs))
    if silence == "ignore":
        weight = weight.masked_fill(quiet, 0.0)
    accuracy = torch.zeros(*alignments.shape, outputs, device=alignments.device)
    accuracy.scatter_(2, alignments.clamp(min=0)[:, :, None], weight[:, :, None])
    if silence == "class":
        for output in (BLANK, *silence_outputs):
            accuracy[:, :, output] = torch.where(quiet, weight, accuracy[:, :, output])
    return accuracy, weight.sum(dim=1)


@torch.no_grad()
def expected_accuracy(
    log_probs: Tensor,
    lengths: Tensor,
    accuracy: Tensor,
    graph: DenominatorGraph,
    acoustic_scale: float = 1.0,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`F` (B,) and `dF / d log_probs` (B, T, C), zero behind the lengths, in the precision of `accuracy`.

    log_probs (B, T, C); lengths (B,); accuracy (B, T, C): what output c earns at frame t.
    chunk: frames held at a time. All frames up to `WHOLE`; above, sqrt(T), every chunk's first states being kept and
    the others computed again (Chen et al. 2016).

    Weights are plain numbers, scaled to sum to one at every frame, and mean accuracies are centred there, so that
    float32 neither underflows nor loses digits over thousands of frames: a graph leads from every state to every phone
    and to blank, with weights that are no smaller than the smallest of the n-gram.
    """
    batch, frames, _ = log_probs.shape
    device, dtype = log_probs.device, accuracy.dtype
    graph = graph.to(device, dtype)
    if chunk is None:
        whole = batch * frames * len(graph.enter) <= WHOLE
        chunk = frames if whole else math.isqrt(frames - 1) + 1
    last = (lengths - 1).to(device)
    inside = (torch.arange(frames, device=device)[:, None] <= last).T[:, :, None]
    # a frame's outputs are taken relative to its best one, which changes no posterior
    scaled = acoustic_scale * log_probs.to(dtype).masked_fill(~inside, 0.0)
    likelihood = (scaled - scaled.amax(dim=2, keepdim=True)).exp().permute(1, 2, 0).contiguous()  # (T, C, B)
    accuracy = accuracy.masked_fill(~inside, 0.0).permute(1, 2, 0).contiguous()
    pass_ = _Pass(graph, likelihood, accuracy, frozenset(last.tolist()), last)

    starts = list(range(0, frames, chunk))
    states = [None]  # before each chunk
    for first in starts[:-1]:
        states.append(pass_.forward(states[-1], first, first + chunk, keep=False))
    expected = log_probs.new_zeros(batch, dtype=torch.float64)
    gradient = torch.empty(frames, log_probs.shape[2], batch, dtype=dtype, device=device)
    after = None
    for first in reversed(starts):
        stop = min(first + chunk, frames)
        before = pass_.forward(states.pop(), first, stop, keep=True)
        behind = pass_.backward(after, first, stop)
        after = behind[0]
        earned, gradient[first:stop] = pass_.posteriors(before, behind, first, stop)
        expected += earned.double().sum(dim=0)
    gradient = acoustic_scale * gradient.permute(2, 0, 1).masked_fill(~inside, 0.0)
    return expected.to(dtype), gradient


class _Pass:
    """Forward and backward sums over a stretch of frames.

    A state holds two numbers: its weight, and that times the mean accuracy so far. They lie as (S, 2, B), so that one
    product with the graph serves both.
    """

    def __init__(
        self, graph: DenominatorGraph, likelihood: Tensor, accuracy: Tensor, ends: frozenset[int], last: Tensor
    ):
        self.graph, self.likelihood, self.accuracy, self.ends, self.last = graph, likelihood, accuracy, ends, last
        self.shape = (len(graph.enter), 2, likelihood.shape[2])

    def forward(self, before: Tensor | None, first: int, stop: int, keep: bool) -> Tensor:
        """Prefixes up to each frame (frames, S, 2, B) if `keep`, else up to the last (S, 2, B)."""
        graph, kept = self.graph, []
        likelihood, accuracy = self._of_states(first, stop)
        for t in range(stop - first):
            if before is None:
                now = likelihood.new_zeros(self.shape)
                now[:, 0] = graph.enter[:, None]
            else:
                now = graph.step(before.view(len(before), -1)).view(self.shape)
            self._take(now, likelihood[t], accuracy[t])
            if keep:
                kept.append(now)
            before = now
        return torch.stack(kept) if keep else before

    def backward(self, after: Tensor | None, first: int, stop: int) -> Tensor:
        """Suffixes behind each frame (frames, S, 2, B), the frame itself left out.

        after: the suffixes behind frame `stop`, None behind the last frame of all.
        """
        graph, kept = self.graph, []
        behind_last = after is None
        likelihood, accuracy = self._of_states(first, stop if behind_last else stop + 1)
        for t in range(stop - 1, first - 1, -1):
            if t + 1 == stop and behind_last:
                now = likelihood.new_zeros(self.shape)
                now[:, 0] = graph.leave[:, None]
            else:
                ahead = after.clone()
                self._take(ahead, likelihood[t + 1 - first], accuracy[t + 1 - first])
                now = graph.step_back(ahead.view(len(ahead), -1)).view(self.shape)
            if t in self.ends:
                here = self.last == t
                now[:, 0] = torch.where(here, graph.leave[:, None], now[:, 0])
                now[:, 1] = now[:, 1].masked_fill(here, 0.0)
            kept.append(now)
            after = now
        return torch.stack(kept[::-1])

    def posteriors(self, before: Tensor, behind: Tensor, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Expected accuracy of each frame (frames, B), and gamma (A - F) of each output (frames, C, B)."""
        likelihood, accuracy = before[:, :, 0], self._of_states(first, stop)[1]
        gamma = likelihood * behind[:, :, 0]
        through = before[:, :, 1] * behind[:, :, 0] + likelihood * behind[:, :, 1]
        total = gamma.sum(dim=1, keepdim=True)
        gamma, through = gamma / total, through / total
        by_state = through - gamma * through.sum(dim=1, keepdim=True)
        outputs = torch.zeros_like(self.likelihood[first:stop]).index_add_(1, self.graph.outputs, by_state)
        return (gamma * accuracy).sum(dim=1), outputs

    def _of_states(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        outputs = self.graph.outputs
        return self.likelihood[first:stop].index_select(1, outputs), self.accuracy[first:stop].index_select(1, outputs)

    @staticmethod
    def _take(states: Tensor, likelihood: Tensor, accuracy: Tensor) -> None:
        """Let a frame's outputs be taken, in place; then scale and centre."""
        weight, gain = states[:, 0], states[:, 1]
        states.mul_(likelihood[:, None])
        gain.addcmul_(weight, accuracy)
        states.div_(weight.sum(dim=0))
        gain.addcmul_(weight, gain.sum(dim=0), value=-1)


class _ExpectedAccuracy(torch.autograd.Function):
    @staticmethod
    def forward(context, log_probs, lengths, accuracy, graph, acoustic_scale):
        with torch.autocast(log_probs.device.type, enabled=False):
            expected, gradient = expected_accuracy(log_probs, lengths, accuracy, graph, acoustic_scale)
        context.save_for_backward(gradient)
        context.dtype = log_probs.dtype
        return expected

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, upstream):
        (gradient,) = context.saved_tensors
        return (upstream[:, None, None] * gradient).to(context.dtype), None, None, None, None


def _check(log_probs: Tensor, lengths: Tensor, alignments: Tensor, graph: DenominatorGraph, silence: str) -> None:
    batch, frames, outputs = log_probs.shape
    if alignments.shape != (batch, frames) or lengths.shape != (batch,):
        raise UserError(
            f"log_probs is {tuple(log_probs.shape)}, alignments {tuple(alignments.shape)}, lengths "
            f"{tuple(lengths.shape)}; expected (B, T, C), (B, T) and (B,)"
        )
    if not 1 <= int(lengths.min()) <= int(lengths.max()) <= frames:
        raise UserError(f"lengths are {int(lengths.min())} to {int(lengths.max())}, expected 1 to {frames} frames")
    if max(int(graph.outputs.max()), int(alignments.max())) >= outputs:
        raise UserError(f"the graph or an alignment has outputs above {outputs - 1}, log_probs' last; mend either")
    if silence not in ("phone", "ignore", "class"):
        raise UserError(f"smbr silence is {silence!r}, expected phone, ignore or class")
