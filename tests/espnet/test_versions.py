"""ESPnet is imported without the network."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dirnet.espnet import versions
from dirnet.espnet.python import PACKAGE_PARENT

nltk = pytest.importorskip("nltk")


def test_nothing_is_fetched_by_an_import_of_espnet(tmp_path, monkeypatch):
    fetched = []
    (tmp_path / "as_g2p_en_does.py").write_text("import nltk\nnltk.download('cmudict')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(nltk, "download", fetched.append)
    versions.imported("as_g2p_en_does")
    assert not fetched
    nltk.download("mine")  # afterwards it is nltk's own again
    assert fetched == ["mine"]


@pytest.mark.parametrize("start", [
    "import dirnet.espnet.task",  # of a worker that ESPnet spawned
    "from dirnet.espnet.lm_task import RecipeLMTask",
    "from dirnet.espnet import experiment; experiment.espnet_task()",
])  # fmt: skip
@pytest.mark.slow
def test_no_connection_is_opened(start):
    program = (
        "import socket, sys\n"
        "def refuse(*arguments, **options):\n"
        "    print('asked for', arguments)\n"
        "    raise OSError('no network')\n"
        "socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse\n"
        f"{start}\n"
        "assert 'g2p_en' in sys.modules\n"
    )
    variables = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0 and "asked for" not in done.stdout, done.stdout + done.stderr
