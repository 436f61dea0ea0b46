"""Register with ESPnet as soon as one of its tasks has been imported. Standard library only: see `sitecustomize`."""

from __future__ import annotations

import importlib
import importlib.abc
import sys

TASK = "espnet2.tasks.asr"
WRAPPED = tuple(f"espnet2.tasks.{name}" for name in ("lm", "slu", "s2t", "st", "asr_transducer"))


class _AfterTask(importlib.abc.MetaPathFinder):
    """Finds ESPnet's tasks through the other finders and registers once the module has executed."""

    def find_spec(self, name, path=None, target=None):
        if name != TASK and name not in WRAPPED:
            return None
        for finder in sys.meta_path:
            spec = None if isinstance(finder, _AfterTask) else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def exec_module(module, execute=execute):
                    execute(module)
                    _register(name)

                spec.loader.exec_module = exec_module
                return spec
        return None


def install() -> None:
    """Register with ESPnet's tasks that are loaded, with others right after their import; again changes nothing."""
    for task in (TASK, *WRAPPED):
        if task in sys.modules:
            _register(task)
    if not any(type(finder).__name__ == _AfterTask.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTask())


def _register(task: str) -> None:
    registry = importlib.import_module("dirnet.espnet.registry")
    registry.register() if task == TASK else registry.register_wrap(task.rpartition(".")[2])
