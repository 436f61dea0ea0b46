"""Words of audio that is still coming: pieces of samples -> MFCC -> an exported program -> the search, step by step."""

from __future__ import annotations

import json

import numpy as np
import torch

from dirnet import config
from dirnet.asr.decode import Decoder, GreedyDecoder
from dirnet.asr.features import Mfcc, MfccConfig
from dirnet.asr.online_features import OnlineMfcc
from dirnet.deploy.program import Program
from dirnet.deploy.utterance import Utterance
from dirnet.errors import UserError


class LiveRecogniser:
    """`start()`, then `push(samples)` as they come and `words()` at any time, then `finish()`.

    `search` is a `Decoder` or a `GreedyDecoder`. A program whose constants contradict each other is a `UserError`.
    """

    def __init__(self, program: Program, search: Decoder | GreedyDecoder):
        self._program, self._search, self._mfcc = program, search, Mfcc(mfcc_config(program))
        self.start()

    @property
    def mfcc(self) -> MfccConfig:
        """The settings of the features."""
        return self._mfcc.config

    @property
    def look_ahead_ms(self) -> float:
        """Sound that must follow the start of a frame before the model's output for it: its window, context and call.

        The most, for the first output of a call: a program reads the whole stride of every output that it gives.
        """
        return self.mfcc.frame_length + self._utterance.frames_ahead * self.mfcc.frame_shift

    def start(self) -> None:
        """Forget the last utterance."""
        self._features, self._utterance = OnlineMfcc(self._mfcc), Utterance(self._program)
        self._search.start()

    @torch.inference_mode()
    def push(self, samples: np.ndarray) -> None:
        """Take the next samples (n,), float32 in -1..1."""
        self._advance(self._utterance.push(self._features.push(torch.as_tensor(samples))))

    def words(self) -> list[str]:
        """The best words if the audio ended here; later sound may still change them."""
        return self._search.result().words

    @torch.inference_mode()
    def finish(self) -> list[str]:
        """The words of the whole utterance, all of whose samples have been pushed."""
        self._advance(self._utterance.finish())
        return self._search.result().words

    def _advance(self, logits: torch.Tensor) -> None:
        self._search.advance(logits.log_softmax(dim=-1).numpy())


def mfcc_config(program: Program) -> MfccConfig:
    """The feature settings of `program`; a `UserError` where they contradict its other constants."""
    settings = config.from_mapping(MfccConfig, json.loads(program.mfcc), f"{program.path}: mfcc")
    told = (program.feature_size, program.frame_shift_ms, program.sample_rate)
    if (settings.num_ceps, settings.frame_shift, settings.sample_frequency) != told:
        raise UserError(
            f"{program.path} wants {settings.num_ceps} MFCC every {settings.frame_shift:g} ms at "
            f"{settings.sample_frequency} Hz by its mfcc, but {told[0]} every {told[1]:g} ms at {told[2]} Hz by its "
            "other constants; export it again"
        )
    return settings
