"""Start-up of every interpreter under `dirnet-python`: DirNet's classes register themselves with ESPnet.

Python imports one `sitecustomize` only, the first on the path: this one, so it also runs the one that it hides.
"""

import importlib.machinery
import importlib.util
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))


def _run(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_run("_dirnet_espnet_hook", os.path.join(os.path.dirname(_here), "hook.py")).install()

_others = [folder for folder in sys.path if os.path.abspath(folder or os.curdir) != _here]
_hidden = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _hidden is not None and _hidden.origin:
    _run("sitecustomize", _hidden.origin)
