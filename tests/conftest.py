"""What tests of several folders use: programs run in this process, scripts loaded by path, small made-up corpora."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dirnet.asr.ark import write_ark

ROOT = Path(__file__).parent.parent

# A shell that starts the tests in the background has them, and all that they start, ignore SIGINT: hear it again.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _seeded():
    """Every test draws the same numbers, whatever ran before it in its process."""
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def program(capsys):
    """Run a program's `main` with arguments: `program(main, "--out", path) -> (exit status, stdout, stderr)`."""

    def run(main, *arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def script(monkeypatch):
    """Load a script of the project, such as `local/kaldi_data.py`, as a module."""

    def load(path: str):
        monkeypatch.syspath_prepend(str((ROOT / path).parent))
        name = Path(path).stem
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # so that multiprocessing finds its functions
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def sound():
    """Write an audio file of noise with a melody: `sound(path, seconds=1.0, rate=16000, channels=1, **soundfile)`."""
    import soundfile

    def write(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1, seed: int = 0, **options) -> Path:
        rng = np.random.default_rng(seed)
        time = np.arange(round(seconds * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * rng.random()) * time) + 0.01 * rng.normal(size=len(time))
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([tone] * channels, 1), rate, **options)
        return path

    return write


@pytest.fixture
def corpus(sound):
    """Make a Kaldi data dir of short flac files: `corpus(folder, speakers=2, utterances=3)` (of each) -> folder."""

    def make(folder: Path, speakers: int = 2, utterances: int = 3, prefix: str = "spk") -> Path:
        lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": [], "spk2utt": []}
        for speaker in (f"{prefix}{number:02d}" for number in range(speakers)):
            names = [f"{speaker}-{number:03d}" for number in range(utterances)]
            for number, name in enumerate(names):
                audio = sound(folder / "audio" / f"{name}.flac", 0.3 + 0.05 * number, seed=number)
                lines["wav.scp"].append(f"{name} {audio}")
                lines["text"].append(f"{name} HELLO WORLD {number}")
                lines["utt2spk"].append(f"{name} {speaker}")
            lines["spk2utt"].append(f"{speaker} {' '.join(names)}")
        for table, content in lines.items():
            (folder / table).write_text("".join(f"{line}\n" for line in content))
        return folder

    return make


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """Folder with a lang folder `lang`, a stored model that hears `tone_speech` and its exported program, `model`."""
    import tone_speech

    from dirnet.deploy.export import export

    folder = tmp_path_factory.mktemp("tones")
    tone_speech.make_lang(folder / "lang")
    tone_speech.make_model(folder / "model")
    export(folder / "model", folder / "model/encoder.pte")
    return folder


@pytest.fixture(scope="module")
def scp(tmp_path_factory):
    """The feats.scp of thirty utterances of 5 to 34 frames, whose values are near the utterance's number."""
    folder, generator = tmp_path_factory.mktemp("dump"), np.random.default_rng(0)
    with write_ark(folder / "feats.ark", folder / "feats.scp", compress=False) as writer:
        for number in range(30):
            writer.write(f"utt{number:02}", np.full((5 + number, 5), number) + generator.normal(size=(5 + number, 5)))
    return folder / "feats.scp"
