"""The names under which ESPnet's configs find DirNet's classes, task by task."""

from __future__ import annotations

import importlib
import sys
import warnings

from dirnet.errors import UserError
from dirnet.espnet.versions import check_espnet

AUDIO = {
    "frontend_choices": {"mfcc": "dirnet.espnet.frontend:MfccFrontend"},
    "specaug_choices": {"mfcc": "dirnet.espnet.specaug:MfccSpecAug"},
    "preencoder_choices": {"splice": "dirnet.espnet.splice:SplicePreEncoder"},
    "encoder_choices": {"dirnet_rnn": "dirnet.espnet.encoder:RecurrentEncoder"},
}
WITHOUT_PREENCODER = {name: classes for name, classes in AUDIO.items() if name != "preencoder_choices"}

# Module of `espnet2.tasks` -> its registry -> name in a config -> module:class. A task has registries of its own or, as
# enh_s2t, those of others; a module or registry that the installed ESPnet lacks is passed over.
TASKS: dict[str, dict[str, dict[str, str]]] = {
    "abs_task": {"scheduler_classes": {"hold_then_reduce": "dirnet.espnet.scheduler:HoldThenReduce"}},
    "asr": {
        **AUDIO,
        "model_choices": {
            "dirnet_ctc": "dirnet.espnet.ctc_model:PhoneCTCModel",
            "dirnet_smbr": "dirnet.espnet.smbr_model:SmbrModel",
        },
    },
    "asr_transducer": {name: AUDIO[name] for name in ("frontend_choices", "specaug_choices")},
    "lm": {},
    "s2t": AUDIO,
    "s2t_ctc": WITHOUT_PREENCODER,
    "st": AUDIO,
    "slu": AUDIO,
}
WRAP = "dirnet_wrap"
WRAPPED = ("asr", "asr_transducer", "lm", "s2t", "slu", "st")  # tasks that have `dirnet_wrap` in their choices
CHOICES = ("model_choices", "encoder_choices", "decoder_choices", "lm_choices")  # these, where a task has them


def known() -> dict[str, dict[str, dict[str, str]]]:
    """All that `register` adds: `TASKS` with `dirnet_wrap`, a class for each registry."""
    classes = {one: {WRAP: f"dirnet.espnet.wrap:DirNetWrap{one.removesuffix('_choices').title()}"} for one in CHOICES}
    return {
        task: {
            registry: {**names.get(registry, {}), **(classes.get(registry, {}) if task in WRAPPED else {})}
            for registry in dict.fromkeys([*names, *(CHOICES if task in WRAPPED else ())])
        }
        for task, names in TASKS.items()
    }


def register(task: str) -> None:
    """Add DirNet's classes to the registries of `espnet2.tasks.<task>`, which is loaded. Again changes nothing.

    A name that is already taken keeps its owner. An ESPnet that is not supported gets none, and a warning.
    """
    if task not in TASKS:
        return
    try:
        check_espnet()
    except UserError as error:
        warnings.warn(f"DirNet does not register: {error}", stacklevel=2)
        return
    module = sys.modules[f"espnet2.tasks.{task}"]
    for registry, names in TASKS[task].items():
        classes = registry_of(module, registry)
        for name, place in names.items():
            if classes is not None and name not in classes:
                source, _, attribute = place.partition(":")
                classes[name] = getattr(importlib.import_module(source), attribute)
    if task in WRAPPED:
        importlib.import_module("dirnet.espnet.wrap").register(module)


def registry_of(module, name: str) -> dict[str, type] | None:
    """The dict behind a registry of a task module: `ClassChoices` keep it in `classes`; None where there is none."""
    choices = getattr(module, name, None)
    return getattr(choices, "classes", choices)
