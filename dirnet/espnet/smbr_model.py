"""ESPnet model `dirnet_smbr`: state-level minimum Bayes risk, started from a CTC model."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from dirnet.asr.smbr import DenominatorGraph, PhoneBigram, align, smbr_loss
from dirnet.errors import UserError
from dirnet.espnet.checkpoint import EXTRA_TOKENS, load_state
from dirnet.espnet.ctc_model import PhoneCTCModel


class SmbrModel(PhoneCTCModel):
    """Expected state errors per utterance plus `ctc_smooth` times the loss of `dirnet_ctc`; statistics gain `smbr_acc`.

    phone_bigram: an .npz file of `PhoneBigram.save`, estimated on the training transcripts; none means uniform
    acoustic_scale: weight of the network's log-posteriors against the bigram
    blank_weight: what a blank frame of the reference counts; CTC's references are mostly blank
    reference: a state dict (`.pth`), usually of the CTC model that training started from, whose Viterbi path through
        the transcript is the reference; none means the current model's own path, which moves while it is trained
    `smbr_acc` is the expected share of the reference that paths agree with.
    """

    def __init__(
        self,
        *args,
        phone_bigram: str | None = None,
        acoustic_scale: float = 1.0,
        blank_weight: float = 0.8,
        ctc_smooth: float = 0.5,
        reference: str | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if not acoustic_scale > 0 or not 0 <= blank_weight <= 1 or not ctc_smooth >= 0:
            raise UserError(
                f"model_conf: acoustic_scale {acoustic_scale}, blank_weight {blank_weight}, ctc_smooth {ctc_smooth}; "
                "expected more than 0, 0 to 1, and 0 or more"
            )
        phones = [token for token in self.token_list if token not in EXTRA_TOKENS][1:]
        bigram = PhoneBigram.load(phone_bigram) if phone_bigram else PhoneBigram.uniform(len(phones))
        if len(bigram.start) != len(phones):
            raise UserError(
                f"phone bigram {phone_bigram} is over {len(bigram.start)} phones, expected {len(phones)}; delete it"
            )
        if self.token_list[1 : len(phones) + 1] != phones or self.blank_id != 0:
            raise UserError(f"token list must be <blank>, the phones, then {', '.join(EXTRA_TOKENS)}; make it again")
        self.graph = DenominatorGraph.build(bigram)
        self.acoustic_scale, self.blank_weight, self.ctc_smooth = acoustic_scale, blank_weight, ctc_smooth
        self.reference = reference
        self.aligner: list[SmbrModel] = []  # in a list, so that it is no part of this module's parameters

    def criterion(self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor):
        path = self.align(speech.clone(), speech_lengths, text, text_lengths) if self.reference else None
        ctc, stats, encoded, lengths = super().criterion(speech, speech_lengths, text, text_lengths)
        log_probs = self.log_probs(encoded)
        if path is None:
            path = align(log_probs, lengths, text, text_lengths)
        self.graph = self.graph.to(encoded.device)
        errors, largest = smbr_loss(log_probs, lengths, path, self.graph, self.acoustic_scale, self.blank_weight)
        stats["smbr_acc"] = 1 - errors.detach().sum() / largest.sum().clamp(min=torch.finfo(largest.dtype).tiny)
        stats["loss_smbr"] = errors.detach().mean()
        return errors.mean() + self.ctc_smooth * ctc, stats, encoded, lengths

    def log_probs(self, encoded: Tensor) -> Tensor:
        """Log-posteriors of blank and phones (B, T, V + 1)."""
        return self.ctc.log_softmax(encoded)[:, :, : int(self.graph.outputs.max()) + 1]

    @torch.no_grad()
    def align(self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor) -> Tensor:
        """The reference outputs (B, T), by the frozen reference model."""
        if not self.aligner:
            frozen = copy.deepcopy(self)
            frozen.load_state_dict(load_state(Path(self.reference)))
            self.aligner.append(frozen.eval().requires_grad_(False))
        encoded, lengths = self.aligner[0].encode(speech, speech_lengths)
        return align(self.aligner[0].log_probs(encoded), lengths, text, text_lengths)
