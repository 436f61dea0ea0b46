"""ESPnet model `dirnet_ctc`: CTC over phones that reports the phone error rate, and learns from a dense teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from rapidfuzz.distance.Levenshtein import distance as edit_distance
from torch import Tensor

from dirnet.compression.distillation import Distillation, distillation_loss
from dirnet.compression.support import SupportSchedule
from dirnet.config import from_mapping
from dirnet.errors import UserError
from dirnet.espnet.checkpoint import EXTRA_TOKENS
from dirnet.nn import storage
from dirnet.nn.acoustic import NEVER, AcousticModel, run_rnn


class PhoneCTCModel(ESPnetASRModel):
    """CTC only; `valid` statistics gain `per`, the phone error rate of the best path (a fraction).

    Where the outputs are other tokens than phones, `per` is their error rate. ESPnet's `cer_ctc` compares the
    characters of joined phone names and is not computed. The outputs of `EXTRA_TOKENS` start at practically zero
    probability, so that a model without them gives the same posteriors. `blank_bias` is added to the blank's initial
    bias. Features that are not finite are a `UserError` that names the utterance.

    distill: values of `Distillation`. In training the loss then is (1 - weight) CTC + weight times the divergence from
        `teacher`, the folder of a neutral model, which sees the same augmented frames and is no part of this module's
        state; statistics gain `loss_distill`. On development data the loss is that of CTC.
    support: values of `SupportSchedule`, followed by `RecipeTrainer`; `kept` is the recipe's to fill in.
    """

    def __init__(
        self,
        *args,
        blank_bias: float = 0.0,
        ctc_weight: float = 1.0,
        distill: Mapping[str, Any] | None = None,
        teacher: str | None = None,
        support: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        if ctc_weight != 1.0:
            raise UserError(f"model_conf: ctc_weight is {ctc_weight}, expected 1.0; this model has no decoder")
        super().__init__(*args, ctc_weight=1.0, **{**kwargs, "report_cer": False, "report_wer": False})
        self.distillation = from_mapping(Distillation, dict(distill or {}), "model_conf: distill")
        if self.distillation.weight and not teacher:
            raise UserError("model_conf: distill has a weight, but there is no teacher; give its model's folder")
        self.support = from_mapping(SupportSchedule, dict(support), "model_conf: support") if support else None
        self.teacher_folder = teacher
        self.teachers: list[AcousticModel] = []  # in a list, so that it is no part of this module's parameters
        with torch.no_grad():
            bias = self.ctc.ctc_lo.bias
            bias[self.blank_id] += blank_bias
            for token in set(EXTRA_TOKENS) & set(self.token_list):
                bias[self.token_list.index(token)] = NEVER

    def forward(self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, utt_id=None, **_):
        """(loss, statistics, batch size); text (B, U) token indices, padded with -1."""
        check_features(speech, utt_id)
        text = text[:, : int(text_lengths.max())]
        loss, stats, encoded, lengths = self.criterion(speech, speech_lengths, text, text_lengths)
        if not self.training:
            stats["per"] = self.phone_error_rate(encoded, lengths, text, text_lengths)
        stats["loss"] = loss.detach()
        return force_gatherable((loss, stats, speech.shape[0]), loss.device)

    def criterion(self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor):
        """The loss, the mean over utterances; its statistics; the encoder's output and lengths."""
        with self.heard() as frames:
            encoded, lengths = self.encode(speech, speech_lengths)
        loss = self.ctc(encoded, lengths, text, text_lengths)
        stats = {"loss_ctc": loss.detach()}
        if frames:
            divergence = self.divergence(frames[0], encoded, lengths)
            stats["loss_distill"] = divergence.detach()
            loss = (1 - self.distillation.weight) * loss + self.distillation.weight * divergence
        return loss, stats, encoded, lengths

    @contextmanager
    def heard(self) -> Iterator[list[Tensor]]:
        """The encoder's input (B, T, F), once it has run; an empty list where nothing is distilled."""
        frames: list[Tensor] = []
        if not self.training or not self.distillation.weight:
            yield frames
            return
        hook = self.encoder.register_forward_pre_hook(lambda _, inputs: frames.append(inputs[0]))
        try:
            yield frames
        finally:
            hook.remove()

    def divergence(self, frames: Tensor, encoded: Tensor, lengths: Tensor) -> Tensor:
        """`distillation_loss` of the encoder's output; the teacher reads the frames (B, T, F) that the encoder read."""
        if not self.teachers:
            self.teachers.append(storage.load(self.teacher_folder).requires_grad_(False))
        teacher = self.teachers[0].to(frames.device)
        with torch.no_grad():
            hidden, _ = run_rnn(teacher.rnn, frames[:, :: teacher.config.frame_stride], lengths)
            theirs = teacher.output(hidden)
        ours = self.ctc.ctc_lo(encoded)[..., : theirs.shape[-1]]  # without the outputs that no transcript has
        return distillation_loss(ours, theirs, lengths, self.distillation.temperature)

    def phone_error_rate(self, encoded: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor) -> float:
        """Errors of the best paths of a batch over its reference phones."""
        errors = 0
        for path, length, reference, size in zip(
            self.ctc.argmax(encoded).tolist(), lengths.tolist(), text.tolist(), text_lengths.tolist(), strict=True
        ):
            path = [token for token, before in zip(path[:length], [None, *path], strict=False) if token != before]
            errors += edit_distance([token for token in path if token != self.blank_id], reference[:size])
        return errors / max(int(text_lengths.sum()), 1)


def check_features(speech: Tensor, utt_id=None) -> None:
    """A `UserError` naming the first utterance of a batch with NaN or infinite values."""
    finite = torch.isfinite(speech).flatten(1).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        name = utt_id[row] if utt_id else f"number {row} of a batch"
        raise UserError(f"features of utterance {name} hold NaN or infinite values; make them again or leave it out")
