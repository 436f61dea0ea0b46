"""Audio: formats, places, resampling, commands, and every way a file can be unusable."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from dirnet.asr.audio import AudioReader
from dirnet.errors import UserError


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_16"}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.flac", {}),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_formats(tmp_path, sound, name, options):
    sound(tmp_path / "reference.wav", subtype="FLOAT")
    reference, _ = soundfile.read(tmp_path / "reference.wav", dtype="float32")
    samples = AudioReader().read(str(sound(tmp_path / name, **options)))
    assert samples.dtype == np.float32 and samples.shape == reference.shape
    lossless = name.endswith((".wav", ".flac"))
    assert np.abs(samples - reference).max() < (1e-4 if lossless else 0.2)
    assert np.corrcoef(samples, reference)[0, 1] > 0.99


@pytest.mark.parametrize("sample", [np.nan, np.inf])
def test_a_sample_that_is_no_number(tmp_path, sample):
    soundfile.write(tmp_path / "a.wav", np.array([0.1, sample, 0.2], dtype=np.float32), 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="a.wav has samples that are no numbers"):
        AudioReader().read_finite(str(tmp_path / "a.wav"))


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_wav_that_was_cut_off(tmp_path, sound, kept):
    path = sound(tmp_path / "a.wav")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=f"a.wav lacks the last {len(whole) - int(kept * len(whole))} bytes"):
        AudioReader().read(str(path))


def test_a_wav_without_its_padding_byte(tmp_path, sound):
    path = sound(tmp_path / "a.wav")
    samples, whole = AudioReader().read(str(path)), path.read_bytes()
    path.write_bytes(whole[:4] + (len(whole) - 7).to_bytes(4, "little") + whole[8:])
    np.testing.assert_array_equal(AudioReader().read(str(path)), samples)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_of_a_program_that_did_not_know_its_length(tmp_path, sound, size):
    path = sound(tmp_path / "a.wav")
    samples, whole = AudioReader().read(str(path)), path.read_bytes()
    path.write_bytes(whole[:4] + size.to_bytes(4, "little") + whole[8:])
    np.testing.assert_array_equal(AudioReader().read(str(path)), samples)


def test_relative_paths_start_from_each_root_then_here(tmp_path, sound, monkeypatch):
    for folder in ("data", "root", "here"):
        sound(tmp_path / folder / f"{folder}.wav")
    sound(tmp_path / "root" / "data.wav", seconds=2)  # the first root wins
    monkeypatch.chdir(tmp_path / "here")
    reader = AudioReader(roots=(tmp_path / "data", tmp_path / "root"))
    assert len(reader.read("data.wav")) == 16000
    assert len(reader.read("root.wav")) == len(reader.read("here.wav")) == 16000
    with pytest.raises(UserError) as error:
        reader.read("nowhere.wav")
    for folder in ("data", "root", "here"):
        assert str(tmp_path / folder) in str(error.value)


def test_other_rates_only_with_resample(tmp_path, sound):
    path = sound(tmp_path / "a.wav", rate=8000)
    with pytest.raises(UserError, match=rf"{path} has 8000 Hz, expected 16000 Hz; give --resample true"):
        AudioReader().read(str(path))
    samples = AudioReader(resample=True).read(str(path))
    assert len(samples) == 16000 and samples.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(samples))
    original, _ = soundfile.read(path)
    assert abs(int(spectrum.argmax()) - int(np.abs(np.fft.rfft(original)).argmax())) <= 1  # the same pitch in Hz
    assert spectrum[5000:].max() < 0.01 * spectrum.max()  # nothing above the old band


def test_commands_only_with_allow_pipe(tmp_path, sound):
    path = sound(tmp_path / "a b.flac")
    with pytest.raises(UserError, match="give --allow_pipe true"):
        AudioReader().read(f"cat '{path}' |")
    reader = AudioReader(allow_pipe=True)
    np.testing.assert_array_equal(reader.read(f"cat '{path}' | "), reader.read(str(path)))
    with pytest.raises(UserError, match=r"command `echo gone >&2; exit 3` of wav.scp ended with 3: gone"):
        reader.read("echo gone >&2; exit 3 |")
    with pytest.raises(UserError, match="cannot be read"):
        reader.read("echo no audio |")


def test_unusable_files_are_named(tmp_path, sound):
    reader = AudioReader()
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "nothing.wav").write_bytes(b"")
    sound(tmp_path / "empty.wav", seconds=0)
    sound(tmp_path / "stereo.wav", channels=2)
    cut = sound(tmp_path / "cut.flac", seconds=2)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "samples.raw").write_bytes(bytes(3200))
    expected = {
        "text.wav": "cannot be read",
        "nothing.wav": "cannot be read",
        "empty.wav": "holds no samples",
        "stereo.wav": "has 2 channels, expected 1",
        "cut.flac": "cannot be read|ends after",
        "samples.raw": "is called raw, samples without a header",
        "missing.wav": "does not exist",
    }
    for name, reason in expected.items():
        with pytest.raises(UserError, match=f"{name}.*({reason})"):
            reader.read(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path, sound):
    path = sound(tmp_path / "a.wav")
    path.chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        AudioReader().read(str(path))
