"""A plain torch CTC trainer: what the recipe trains through ESPnet, without ESPnet, for benches of many models."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.corpus import Batch, Corpus, Set
from dirnet.asr.decode import Decoder
from dirnet.asr.score import count
from dirnet.compression.distillation import distillation_loss
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel

Criterion = Callable[[Tensor, Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Training:
    """Adam under a linear warm-up over `warmup` of all steps and a cosine down to zero; the last weights count.

    channel: deviation of a random constant per utterance and cepstrum. time_masks, frequency_masks: SpecAugment's,
    each mask up to 5 % of the frames and up to 5 cepstra. share: the part of the batches that an epoch reads.
    """

    epochs: int
    rate: float
    batch: int = 32
    share: float = 1.0
    warmup: float = 0.1
    dropout: float = 0.2
    clip: float = 5.0
    channel: float = 0.1
    time_masks: int = 4
    frequency_masks: int = 1
    blank_bias: float = 0.0
    distill: float = 0.0  # weight of the teacher's posteriors against CTC
    temperature: float = 2.0
    precision: str = "float32"  # bfloat16: the recurrent layers under autocast; weights and their changes stay float32

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision is {self.precision!r}, expected float32 or bfloat16")
        if not 0 < self.share <= 1:
            raise UserError(f"share is {self.share}, expected a part of the training set, above 0 and at most 1")

    def autocast(self, device: torch.device) -> torch.autocast:
        """Inside, recurrent layers run in `precision`."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def check_precision(settings: Training, device: str | torch.device) -> None:
    """A `UserError` where `device` has no recurrent layers of that precision."""
    is_cpu = torch.device(device).type == "cpu"
    if settings.precision == "bfloat16" and is_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise UserError("precision is bfloat16, which torch's LSTM has on a CPU with AVX-512 or a GPU; take float32")


def train(
    model: AcousticModel,
    corpus: Corpus,
    settings: Training,
    seed: int,
    teacher: AcousticModel | None = None,
    after_step: Callable[[float], None] = lambda done: None,
    log: Callable[[str], None] = print,
    criterion: Criterion | None = None,
) -> AcousticModel:
    """Train `model` in place, on the corpus's device; `after_step` gets the fraction done, before gradients go.

    criterion: the loss of (log_probs (B, T, C), lengths (B,), batch); default: CTC, with the teacher if there is one.
    """
    check_precision(settings, corpus.device)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model.to(corpus.device).train()
    model.rnn.dropout = settings.dropout
    if settings.blank_bias:
        with torch.no_grad():
            model.output.bias[0] += settings.blank_bias
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    steps = settings.epochs * math.ceil(settings.share * math.ceil(len(corpus.train.names) / settings.batch))
    done = 0
    for epoch in range(settings.epochs):
        started, total, read = time.monotonic(), torch.zeros((), device=corpus.device), 0
        for batch in corpus.train.batches(settings.batch, generator, settings.share):
            warm, cooled = done / max(settings.warmup * steps, 1), 0.5 + 0.5 * math.cos(math.pi * done / steps)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * min(warm, 1.0) * cooled
            loss = _loss(model, batch, settings, teacher, criterion)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            done += 1
            after_step(done / steps)
            total += loss.detach() * len(batch.rows)
            read += len(batch.rows)
        seconds = time.monotonic() - started
        per = phone_errors(model, corpus.dev)
        log(
            f"epoch {epoch + 1}: loss {float(total) / read:.3f}, dev PER "
            f"{100 * sum(per[0]) / sum(per[1]):.2f} %, {seconds:.1f} s"
        )
        model.train()
    model.rnn.dropout = 0.0
    return model.eval()


def _loss(
    model: AcousticModel, batch: Batch, settings: Training, teacher: AcousticModel | None, criterion: Criterion | None
) -> Tensor:
    features = augment(batch.features, batch.lengths, model, settings)
    with settings.autocast(features.device):
        log_probs, steps = model(features, batch.lengths)
    steps = steps.cpu()
    loss = (criterion or ctc_loss)(log_probs, steps, batch)
    if teacher is None or not settings.distill:
        return loss
    with torch.no_grad():
        wanted, _ = teacher(features, batch.lengths)
    soft = distillation_loss(log_probs, wanted, steps, settings.temperature)
    return (1 - settings.distill) * loss + settings.distill * soft


def ctc_loss(log_probs: Tensor, steps: Tensor, batch: Batch) -> Tensor:
    """The mean over the utterances that have frames enough; the others count nothing."""
    phones = batch.phones
    inside = torch.arange(1, phones.shape[1]) < batch.phone_lengths[:, None]
    repeats = ((phones[:, 1:] == phones[:, :-1]) & inside).sum(1)  # between equal phones CTC needs a blank
    enough = batch.phone_lengths + repeats <= steps
    loss = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), batch.phones.to(log_probs.device), steps, batch.phone_lengths,
        reduction="none", zero_infinity=True,
    )  # fmt: skip
    return loss.sum() / max(int(enough.sum()), 1)


def augment(features: Tensor, lengths: Tensor, model: AcousticModel, settings: Training) -> Tensor:
    """Random channel and masks on (B, T, F) MFCC; a mask takes the corpus mean, as SpecAugment on normalised ones."""
    size, frames, cepstra = features.shape
    device, mean = features.device, model.cmvn_mean
    features = features + settings.channel * torch.randn(size, 1, cepstra, device=device) / model.cmvn_istd
    steps, bins = torch.arange(frames, device=device), torch.arange(cepstra, device=device)
    lengths = lengths.to(device)[:, None]
    widths = torch.rand(size, settings.time_masks, device=device) * 0.05 * lengths
    starts = torch.rand(size, settings.time_masks, device=device) * (lengths - widths)
    masked = ((steps >= starts[..., None]) & (steps < (starts + widths)[..., None])).any(1)[:, :, None]
    widths = torch.rand(size, settings.frequency_masks, device=device) * 6
    starts = torch.rand(size, settings.frequency_masks, device=device) * (cepstra - widths)
    masked = masked | ((bins >= starts[..., None]) & (bins < (starts + widths).floor()[..., None])).any(1)[:, None]
    return torch.where(masked, mean, features)


@torch.no_grad()
def posteriors(model: AcousticModel, data: Set, batch: int = 64) -> dict[str, Tensor]:
    """Log posteriors (T', outputs) of every utterance, on the CPU."""
    model.eval()
    found = {}
    for part in data.batches(batch):
        log_probs, steps = model(part.features, part.lengths)
        for row, values, length in zip(part.rows.tolist(), log_probs.cpu(), steps.tolist(), strict=True):
            found[data.names[row]] = values[:length]
    return found


def phone_errors(model: AcousticModel, data: Set, found: dict[str, Tensor] | None = None) -> tuple[list, list]:
    """Edits and reference phones of every utterance, by best path, in the order of `data.names`."""
    found = posteriors(model, data) if found is None else found
    tokens = model.config.phones
    hypotheses = {}
    for name, values in found.items():
        path = values.argmax(1).unique_consecutive().tolist()
        hypotheses[name] = [tokens[token] for token in path if token]
    rows = count(data.phones, hypotheses)
    return [row.errors for row in rows], [len(row.reference) for row in rows]


def word_errors(corpus: Corpus, data: Set, found: dict[str, Tensor], decoder: Decoder) -> tuple[list, list]:
    """Edits and reference words of every utterance, decoded with the graph, in the order of `data.names`."""
    hypotheses = {name: decoder.decode(found[name].numpy())[0] for name in data.names}
    rows = count({name: corpus.words[name] for name in data.names}, hypotheses)
    return [row.errors for row in rows], [len(row.reference) for row in rows]
