"""Commit, versions and processor as other programs tell them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from dirnet import provenance


def test_versions():
    assert provenance.package_version("torch").split("+")[0] == torch.__version__.split("+")[0]
    assert provenance.package_version("no-such-package") is None


def test_the_commit_is_gits(monkeypatch):
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(provenance.__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    assert asked.startswith(provenance.commit()) and bool(provenance.commit()) == bool(asked)
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.commit() == ""


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
def test_the_processor_has_a_name():
    assert provenance.cpu_name() and "\n" not in provenance.cpu_name()
