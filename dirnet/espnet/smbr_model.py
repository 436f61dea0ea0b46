"""ESPnet model `dirnet_smbr`: state-level minimum Bayes risk, started from a CTC model."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from dirnet.asr.alignment import align
from dirnet.asr.denominator import DenominatorGraph
from dirnet.asr.phone_ngram import PhoneNgram
from dirnet.asr.smbr import smbr_loss
from dirnet.errors import UserError
from dirnet.espnet.checkpoint import EXTRA_TOKENS, check_fits, load_state, whole_state
from dirnet.espnet.ctc_model import PhoneCTCModel
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel

SILENCE_PHONES = ("SIL", "SPN")


class SmbrModel(PhoneCTCModel):
    """Expected frame errors per utterance plus `ctc_smooth` times the loss of `dirnet_ctc`.

    Statistics gain `smbr_acc`, the expected share of the reference that paths agree with, `loss_smbr`, `skipped`, the
    share of utterances whose transcript has no path (they count as 0 errors), and in training `per`.

    phone_ngram: a file of `PhoneNgram.save`, estimated on the training transcripts; none means uniform
    smbr_order: order of that n-gram; the recipe makes the file, another order in it is a `UserError`
    acoustic_scale: weight of the network's log-posteriors against the n-gram
    blank_weight: what a blank frame of the reference counts; CTC's references are mostly blank
    silence: how frames of SIL and SPN in the reference count: phone | ignore | class, as in `smbr_loss`
    reference: the model, usually the one by CTC that training started from, whose Viterbi path through the transcript
        is the reference: the folder of a neutral model, or a state dict (`.pth`) of this model's shape; none means the
        current model's own path, which moves while it is trained
    Forward-backward is in float32, also with ESPnet's `use_amp`, which is off by default.
    """

    def __init__(
        self,
        *args,
        phone_ngram: str | None = None,
        smbr_order: int = 2,
        acoustic_scale: float = 1.0,
        blank_weight: float = 0.8,
        ctc_smooth: float = 0.5,
        silence: str = "phone",
        reference: str | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if not acoustic_scale > 0 or not 0 <= blank_weight <= 1 or not ctc_smooth >= 0:
            raise UserError(
                f"model_conf: acoustic_scale {acoustic_scale}, blank_weight {blank_weight}, ctc_smooth {ctc_smooth}; "
                "expected more than 0, 0 to 1, and 0 or more"
            )
        if silence not in ("phone", "ignore", "class"):
            raise UserError(f"model_conf: silence is {silence!r}, expected phone, ignore or class")
        phones = [token for token in self.token_list if token not in EXTRA_TOKENS][1:]
        ngram = PhoneNgram.load(phone_ngram) if phone_ngram else PhoneNgram.uniform(len(phones))
        if ngram.phones != len(phones) or ngram.order != smbr_order:
            raise UserError(
                f"phone n-gram {phone_ngram or 'uniform'} is over {ngram.phones} phones and of order {ngram.order}, "
                f"expected {len(phones)} and {smbr_order}; delete it"
            )
        if self.token_list[1 : len(phones) + 1] != phones or self.blank_id != 0:
            raise UserError(f"token list must be <blank>, the phones, then {', '.join(EXTRA_TOKENS)}; make it again")
        self.outputs = len(phones) + 1
        self.graph = DenominatorGraph.build(ngram).to(torch.device("cpu"), torch.float32)
        self.acoustic_scale, self.blank_weight, self.ctc_smooth = acoustic_scale, blank_weight, ctc_smooth
        self.silence = silence
        self.silence_outputs = tuple(self.token_list.index(name) for name in SILENCE_PHONES if name in phones)
        self.reference = reference
        self.aligner: list[SmbrModel | AcousticModel] = []  # in a list, so that it is no part of this module's state

    def criterion(self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor):
        path = self.align(speech.clone(), speech_lengths, text, text_lengths) if self.reference else None
        ctc, stats, encoded, lengths = super().criterion(speech, speech_lengths, text, text_lengths)
        log_probs = self.log_probs(encoded)
        if path is None:
            path = align(log_probs, lengths, text, text_lengths)
        self.graph = self.graph.to(encoded.device)
        errors, largest = smbr_loss(
            log_probs, lengths, path, self.graph, self.acoustic_scale, self.blank_weight, self.silence,
            self.silence_outputs,
        )  # fmt: skip
        stats["smbr_acc"] = 1 - errors.detach().sum() / largest.sum().clamp(min=torch.finfo(largest.dtype).tiny)
        stats["loss_smbr"] = errors.detach().mean()
        stats["skipped"] = (path[:, 0] < 0).float().mean()
        if self.training:
            stats["per"] = self.phone_error_rate(encoded, lengths, text, text_lengths)
        return errors.mean() + self.ctc_smooth * ctc, stats, encoded, lengths

    def log_probs(self, encoded: Tensor) -> Tensor:
        """Log-posteriors of blank and phones (B, T, V + 1)."""
        return self.ctc.log_softmax(encoded)[:, :, : self.outputs]

    @torch.no_grad()
    def align(self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor) -> Tensor:
        """The reference outputs (B, T), by the frozen reference model, which reads the features as they are stored."""
        if not self.aligner:
            self.aligner.append(self.load_reference().eval().requires_grad_(False))
        model = self.aligner[0].to(speech.device)
        if isinstance(model, AcousticModel):
            log_probs, lengths = model(speech[:, : int(speech_lengths.max())], speech_lengths)
        else:
            encoded, lengths = model.encode(speech, speech_lengths)
            log_probs = model.log_probs(encoded)
        return align(log_probs, lengths, text, text_lengths)

    def load_reference(self) -> SmbrModel | AcousticModel:
        """What `reference` names; a neutral model with other outputs or another frame rate is a `UserError`."""
        if Path(self.reference).is_dir():
            model = storage.load(Path(self.reference))
            theirs, ours = model.config, (self.outputs, self.encoder.frame_stride)
            if (theirs.num_outputs, theirs.frame_stride) != ours:
                raise UserError(
                    f"model_conf: reference {self.reference} has {theirs.num_outputs} outputs and frame stride "
                    f"{theirs.frame_stride}, expected {ours[0]} and {ours[1]}"
                )
            return model
        model = copy.deepcopy(self)
        state = whole_state(model, load_state(Path(self.reference)), Path(self.reference))
        check_fits(state, model.state_dict(), Path(self.reference), "a model of another shape is read as a folder")
        model.load_state_dict(state)
        return model
