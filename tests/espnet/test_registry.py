"""`import dirnet.espnet` registers with ESPnet, in whichever order the two are imported."""

from __future__ import annotations

import sys

import dirnet.espnet
from dirnet.espnet import hook
from dirnet.espnet.registry import register


def registered() -> dict[str, type]:
    from espnet2.tasks import abs_task, asr

    choices = {
        "mfcc": asr.frontend_choices.classes,
        "splice": asr.preencoder_choices.classes,
        "dirnet_rnn": asr.encoder_choices.classes,
        "dirnet_ctc": asr.model_choices.classes,
        "dirnet_smbr": asr.model_choices.classes,
        "hold_then_reduce": abs_task.scheduler_classes,
    }
    return {name: classes[name] for name, classes in choices.items() if name in classes}


def test_registered_when_espnet_is_imported_after_us():
    assert len(registered()) == 6  # dirnet.espnet was imported above, ESPnet inside the function


def test_registering_again_changes_nothing_and_takes_nothing_away():
    from espnet2.tasks import asr

    before = registered()
    register()
    hook.install()
    assert registered() == before
    asr.encoder_choices.classes["dirnet_rnn"] = mine = type("Mine", (), {})
    try:
        register()
        assert asr.encoder_choices.classes["dirnet_rnn"] is mine
    finally:
        asr.encoder_choices.classes["dirnet_rnn"] = before["dirnet_rnn"]


def test_registered_at_once_when_espnet_is_there_already():
    from espnet2.tasks import asr

    taken = asr.encoder_choices.classes.pop("dirnet_rnn")
    hook.install()
    assert asr.encoder_choices.classes["dirnet_rnn"] is taken


def test_the_hook_is_installed_once():
    def hooks():
        return [finder for finder in sys.meta_path if type(finder).__name__ == "_AfterTask"]

    before = len(hooks())
    dirnet.espnet.install()
    assert len(hooks()) == before <= 1
