"""Register with each ESPnet task as soon as it has been imported. Standard library only: see `sitecustomize`.

Every interpreter under `dirnet-python` or `dirnet espnet enable` runs this file, hence nothing but `sys` at its start.
"""

from __future__ import annotations

import sys

TASKS = "espnet2.tasks."


class _AfterTask:
    """Finds `espnet2.tasks.*` through the other finders and registers once such a module has executed."""

    def find_spec(self, name, path=None, target=None):
        if not name.startswith(TASKS):
            return None
        for finder in sys.meta_path:
            foreign = type(finder).__name__ != _AfterTask.__name__ and hasattr(finder, "find_spec")
            spec = finder.find_spec(name, path, target) if foreign else None
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def exec_module(module, execute=execute):
                    execute(module)
                    _register(name)

                spec.loader.exec_module = exec_module
                return spec
        return None


def install() -> None:
    """Register with the ESPnet tasks that are loaded, and with others right after their import. Again changes nothing.

    `install` of another copy of this file, which a start-up file ran, counts: the classes are the same ones.
    """
    for name in [name for name in sys.modules if name.startswith(TASKS)]:
        _register(name)
    if not any(type(finder).__name__ == _AfterTask.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTask())


def _register(name: str) -> None:
    from dirnet.espnet.registry import register

    register(name.removeprefix(TASKS))
