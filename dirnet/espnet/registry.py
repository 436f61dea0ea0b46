"""The names under which ESPnet's configs find DirNet's classes."""

from __future__ import annotations

import importlib


def register() -> None:
    """Add DirNet's classes to the choices of ESPnet's ASR task. Calling it again changes nothing.

    frontend `mfcc`, specaug `mfcc`, preencoder `splice`, encoder `dirnet_rnn`, models `dirnet_ctc` and `dirnet_smbr`,
    scheduler `hold_then_reduce`, model, encoder and decoder `dirnet_wrap`. A name that is taken keeps its owner.
    """
    from espnet2.tasks import abs_task, asr

    from dirnet.espnet.ctc_model import PhoneCTCModel
    from dirnet.espnet.encoder import RecurrentEncoder
    from dirnet.espnet.frontend import MfccFrontend
    from dirnet.espnet.scheduler import HoldThenReduce
    from dirnet.espnet.smbr_model import SmbrModel
    from dirnet.espnet.specaug import MfccSpecAug
    from dirnet.espnet.splice import SplicePreEncoder

    asr.frontend_choices.classes.setdefault("mfcc", MfccFrontend)
    asr.specaug_choices.classes.setdefault("mfcc", MfccSpecAug)
    asr.preencoder_choices.classes.setdefault("splice", SplicePreEncoder)
    asr.encoder_choices.classes.setdefault("dirnet_rnn", RecurrentEncoder)
    asr.model_choices.classes.setdefault("dirnet_ctc", PhoneCTCModel)
    asr.model_choices.classes.setdefault("dirnet_smbr", SmbrModel)
    abs_task.scheduler_classes.setdefault("hold_then_reduce", HoldThenReduce)
    register_wrap("asr")


def register_wrap(task: str) -> None:
    """Add `dirnet_wrap` to the choices of the task called `task`: asr, lm, slu, s2t, st or asr_transducer."""
    from dirnet.espnet import wrap

    wrap.register(importlib.import_module(f"espnet2.tasks.{task}"))
