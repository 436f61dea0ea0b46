"""ESPnet model `dirnet_ctc`: CTC over phones that reports the phone error rate."""

from __future__ import annotations

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor
from torchaudio.functional import edit_distance

from dirnet.errors import UserError
from dirnet.espnet.checkpoint import EXTRA_TOKENS
from dirnet.nn.acoustic import NEVER


class PhoneCTCModel(ESPnetASRModel):
    """CTC only; `valid` statistics gain `per`, the phone error rate of the best path (a fraction).

    ESPnet's `cer_ctc` compares the characters of joined phone names and is not computed. The outputs of `EXTRA_TOKENS`
    start at practically zero probability, so that a model without them gives the same posteriors. `blank_bias` is
    added to the blank's initial bias. Features that are not finite are a `UserError` that names the utterance.
    """

    def __init__(self, *args, blank_bias: float = 0.0, ctc_weight: float = 1.0, **kwargs):
        if ctc_weight != 1.0:
            raise UserError(f"model_conf: ctc_weight is {ctc_weight}, expected 1.0; this model has no decoder")
        super().__init__(*args, ctc_weight=1.0, **{**kwargs, "report_cer": False, "report_wer": False})
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
        """The CTC loss, the mean over utterances; its statistics; the encoder's output and lengths."""
        encoded, lengths = self.encode(speech, speech_lengths)
        loss = self.ctc(encoded, lengths, text, text_lengths)
        return loss, {"loss_ctc": loss.detach()}, encoded, lengths

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
