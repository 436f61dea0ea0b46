"""`import dirnet.espnet` registers with each of ESPnet's tasks, in whichever order the two are imported."""

from __future__ import annotations

import importlib
import sys

import pytest

import dirnet.espnet
from dirnet.espnet import hook, versions
from dirnet.espnet.registry import TASKS, register, registry_of


@pytest.mark.parametrize("task", TASKS)
def test_every_name_of_the_table_holds_once_espnet_is_imported(task):
    module = importlib.import_module(f"espnet2.tasks.{task}")  # after dirnet.espnet, which was imported above
    for registry, names in TASKS[task].items():
        classes = registry_of(module, registry)
        assert classes is not None, f"the installed ESPnet has no {task}.{registry}"
        for name, place in names.items():
            source, _, attribute = place.partition(":")
            assert classes[name] is getattr(sys.modules[source], attribute)
            kind = getattr(getattr(module, registry), "base_type", None)  # what ESPnet's own choices must be
            assert kind is None or issubclass(classes[name], kind)


def test_registering_again_changes_nothing_and_takes_nothing_away():
    from espnet2.tasks import asr

    classes = asr.encoder_choices.classes
    before = dict(classes)
    register("asr")
    hook.install()
    assert classes == before
    classes["dirnet_rnn"] = mine = type("Mine", (), {})
    try:
        register("asr")
        assert classes["dirnet_rnn"] is mine
    finally:
        classes["dirnet_rnn"] = before["dirnet_rnn"]


def test_registered_at_once_when_espnet_is_there_already():
    from espnet2.tasks import asr

    taken = asr.encoder_choices.classes.pop("dirnet_rnn")
    hook.install()
    assert asr.encoder_choices.classes["dirnet_rnn"] is taken


def test_an_espnet_that_is_not_supported_gets_a_warning_and_no_classes(monkeypatch):
    from espnet2.tasks import asr

    monkeypatch.setattr(versions, "found", lambda: "202301")
    monkeypatch.delitem(asr.encoder_choices.classes, "dirnet_rnn")
    with pytest.warns(UserWarning, match="ESPnet is 202301, expected ESPnet 202511 on Python 3.11, .* pip install"):
        register("asr")
    assert "dirnet_rnn" not in asr.encoder_choices.classes


def test_the_hook_is_installed_once():
    def hooks():
        return [finder for finder in sys.meta_path if type(finder).__name__ == "_AfterTask"]

    before = len(hooks())
    dirnet.espnet.install()
    assert len(hooks()) == before == 1
