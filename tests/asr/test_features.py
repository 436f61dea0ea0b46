"""Features: the module against NumPy arithmetic, batching, configuration, and the program on good and bad data."""

from __future__ import annotations

import errno
import json
import math

import numpy as np
import pytest
import soundfile
import torch

from dirnet.asr import ark, features
from dirnet.asr.ark import Matrices
from dirnet.asr.datadir import read_table
from dirnet.asr.features import Mfcc, MfccConfig, Statistics, extract
from dirnet.errors import UserError


def reference(samples: np.ndarray) -> np.ndarray:
    """MFCC written out: Hamming window, 512-point power spectrum, 40 mel triangles, logarithm, DCT-II."""
    frames = 1 + (len(samples) - 400) // 160
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.array([np.abs(np.fft.rfft(samples[160 * t : 160 * t + 400] * window, 512)) ** 2 for t in range(frames)])

    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    edges = 700 * (10 ** (np.linspace(mel(20), mel(7600), 42) / 2595) - 1)
    hz = np.arange(257) * 16000 / 512
    rising = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    log_mel = np.log(power @ np.clip(np.minimum(rising, falling), 0, None) + 1e-6)
    basis = np.cos(np.pi / 40 * (np.arange(40)[:, None] + 0.5) * np.arange(26)) * math.sqrt(2 / 40)
    basis[:, 0] /= math.sqrt(2)
    return log_mel @ basis


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_mfcc_is_the_written_out_arithmetic():
    samples = noise(16000)
    np.testing.assert_allclose(Mfcc()(samples[None])[0], reference(samples.double().numpy()), atol=2e-4)


@pytest.mark.parametrize("samples", [0, 399, 400, 559, 560, 16000, 16159, 16160])
def test_number_of_frames_snips_edges(samples):
    config = MfccConfig()
    frames = Mfcc(config)(torch.zeros(2, samples)).shape
    assert frames == (2, max(0, 1 + (samples - 400) // 160) if samples >= 400 else 0, 26)
    assert config.num_frames(samples) == frames[1]
    assert config.num_frames(torch.tensor([samples])).tolist() == [frames[1]]


def test_padding_leaves_the_frames_before_it():
    samples, mfcc = noise(5000), Mfcc()
    alone, padded = mfcc(samples[None])[0], mfcc(torch.cat([samples, torch.zeros(3000)])[None])[0]
    torch.testing.assert_close(padded[: len(alone)], alone)


def test_digital_silence_is_finite_and_state_dict_empty():
    mfcc = Mfcc()
    assert torch.isfinite(mfcc(torch.zeros(1, 4000))).all()
    assert mfcc.state_dict() == {}


@pytest.mark.parametrize("batch_s", [0.01, 1, 100])
def test_extract_equals_one_at_a_time(batch_s):
    lengths = [16000, 400, 399, 1, 7777, 160, 4000, 399]
    audio = {f"u{index}": noise(length, index).numpy() for index, length in enumerate(lengths)}
    mfcc = Mfcc()
    made = dict(extract(audio.items(), mfcc, batch_s))
    assert list(made) == list(audio)
    for name, samples in audio.items():
        alone = mfcc(torch.from_numpy(samples)[None])[0].numpy()
        assert made[name].shape == alone.shape
        np.testing.assert_allclose(made[name], alone, atol=1e-4)


def test_the_recipes_config_is_the_default(request):
    path = request.config.rootpath / "conf" / "mfcc.conf"
    assert MfccConfig.read(path) == MfccConfig()


def test_config_reads_kaldi_options(tmp_path):
    path = tmp_path / "mfcc.conf"
    path.write_text("# comment\n\n--num-ceps=13  # fewer\n--window-type=hanning\n--high-freq=0\n--frame-length=20\n")
    config = MfccConfig.read(path)
    assert (config.num_ceps, config.window_type, config.upper_hz, config.window_samples) == (13, "hanning", 8000, 320)
    assert Mfcc(config)(torch.zeros(1, 1600)).shape == (1, 9, 13)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--num-cep=26", "unknown key 'num_cep'; did you mean 'num_ceps'"),
        ("num-ceps=26", "mfcc.conf:1: 'num-ceps=26' is not an option"),
        ("--num-ceps=many", "num_ceps is 'many', expected int"),
        ("--num-ceps=41", "num_ceps is 41, expected at most num_mel_bins, 40"),
        ("--low-freq=[", "mfcc.conf:1: --low-freq is '\\[', expected a number or word"),
        ("--low-freq=2000-99-99", "mfcc.conf:1: --low-freq is '2000-99-99'"),
        ("--frame-shift=0", "frame_shift is 0.0, expected a finite number above 0"),
        ("--frame-shift=.inf", "frame_shift is inf, expected a finite number"),
        ("--frame-shift=0.02", "frame_shift is 0.02, expected milliseconds, a sample or more"),
        ("--frame-length=0.02", "frame_length is 0.02, expected milliseconds"),
        ("--window-type=povey", "window_type is 'povey', expected"),
        ("--low-freq=7700", "expected it rising"),
        ("--high-freq=9000", "within 0..8000.0 Hz"),
    ],
)
def test_bad_config_is_named(tmp_path, line, expected):
    path = tmp_path / "mfcc.conf"
    path.write_text(line)
    with pytest.raises(UserError, match=expected):
        MfccConfig.read(path)


def test_missing_config(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        MfccConfig.read(tmp_path / "mfcc.conf")
    (tmp_path / "mfcc.conf").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is no text"):
        MfccConfig.read(tmp_path / "mfcc.conf")


def test_statistics_add_up_and_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(frames, 26)).astype(np.float32) for frames in (3, 50)]
    total = Statistics()
    for part in parts:
        one = Statistics()
        one.add(part)
        total += one
    total.write(tmp_path / "cmvn.npz")
    stored = np.load(tmp_path / "cmvn.npz")
    everything = np.concatenate(parts).astype(np.float64)
    mean = stored["sum"] / stored["count"]
    variance = stored["sum_square"] / stored["count"] - mean**2
    np.testing.assert_allclose(mean, everything.mean(0))
    np.testing.assert_allclose(variance, everything.var(0))
    assert Statistics.read(tmp_path / "cmvn.npz").count == 53
    (tmp_path / "cmvn.npz").write_bytes((tmp_path / "cmvn.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="cmvn.npz is damaged"):
        Statistics.read(tmp_path / "cmvn.npz")


@pytest.fixture
def make(program, request):
    def run(data, out, *options):
        conf = request.config.rootpath / "conf" / "mfcc.conf"
        return program(features.main, "--config", conf, "--data", data, "--out", out, *options)

    return run


def test_program_writes_features_and_tables_once(corpus, tmp_path, make):
    data, out = corpus(tmp_path / "data"), tmp_path / "dump" / "raw.1"
    status, said, _ = make(data, out)
    assert status == 0 and "x real time" in said
    matrices = Matrices(f"{out}.scp")
    frames = read_table(f"{out}.utt2num_frames")
    durations = read_table(f"{out}.utt2dur")
    assert list(matrices) == list(frames) == list(durations) == list(read_table(data / "text"))
    for name, path in read_table(data / "wav.scp").items():
        samples, _ = soundfile.read(path)
        expected = reference(samples)
        assert len(matrices[name]) == int(frames[name]) == len(expected)
        assert float(durations[name]) == pytest.approx(len(samples) / 16000, abs=1e-4)
        assert np.abs(matrices[name] - expected).mean() < 0.02 * expected.std()  # 8-bit storage
    assert Statistics.read(f"{out}.cmvn.npz").count == sum(map(int, frames.values()))
    before = (tmp_path / "dump" / "raw.1.ark").stat().st_mtime_ns
    assert "already done" in make(data, out)[1]
    assert (tmp_path / "dump" / "raw.1.ark").stat().st_mtime_ns == before
    (data / "wav.scp").write_text((data / "wav.scp").read_text().split("\n")[0] + "\n")
    assert "already done" not in make(data, out)[1]
    assert len(Matrices(f"{out}.scp")) == 1


def test_another_recording_of_the_same_name_and_a_lost_archive_are_done_again(corpus, tmp_path, make, sound):
    data, out = corpus(tmp_path / "data"), tmp_path / "raw"
    assert make(data, out)[0] == 0
    sound(data / "audio" / "spk01-001.flac", seconds=1.0)
    assert "already done" not in make(data, out)[1]
    assert len(Matrices(f"{out}.scp")["spk01-001"]) == 98
    (tmp_path / "raw.ark").unlink()
    assert "already done" not in make(data, out)[1]
    assert len(Matrices(f"{out}.scp")["spk01-001"]) == 98


def test_unusable_utterances_are_skipped_with_a_count(corpus, tmp_path, make, sound):
    data, out = corpus(tmp_path / "data", speakers=1, utterances=30), tmp_path / "raw"
    paths = list(read_table(data / "wav.scp").values())
    sound(data / paths[3], seconds=0.02)
    status, said, _ = make(data, out)
    assert status == 0 and "skipped spk00-003: 0.0200 s is shorter than one window" in said
    assert len(Matrices(f"{out}.scp")) == 29 and "spk00-003" not in read_table(f"{out}.utt2num_frames")

    broken = np.zeros(8000, np.float32)
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "huge.wav", np.full(8000, 1e30, np.float32), 16000, subtype="FLOAT")
    table = (data / "wav.scp").read_text().replace(paths[5], str(tmp_path / "nan.wav"))
    (data / "wav.scp").write_text(table.replace(paths[6], str(tmp_path / "huge.wav")))
    status, _, error = make(data, out)
    assert status == 2 and "3 of 30 utterances have no features, more than 5%" in error and len(error.splitlines()) == 1
    status, said, _ = make(data, out, "--max_skipped", "0.2")
    assert status == 0 and "spk00-005: the audio holds NaN" in said and "spk00-006: its features are not finite" in said
    assert all(np.isfinite(matrix).all() for matrix in Matrices(f"{out}.scp").values())


def test_bad_audio_is_one_line_and_leaves_nothing(corpus, tmp_path, make, sound):
    data, out = corpus(tmp_path / "data"), tmp_path / "dump" / "raw"
    path = sound(data / "audio" / "spk01-001.flac", rate=8000)
    status, _, error = make(data, out)
    assert status == 2 and len(error.splitlines()) == 1
    assert f"utterance 'spk01-001': audio {path} has 8000 Hz, expected 16000 Hz" in error
    assert list((tmp_path / "dump").iterdir()) == []
    assert make(data, out, "--resample", "true")[0] == 0
    path.unlink()
    status, _, error = make(data, tmp_path / "other")
    assert status == 2 and f"{path} does not exist" in error
    assert make(data, out, "--resample", "perhaps")[0] == 2


def test_full_disk_and_ctrl_c_leave_nothing(corpus, tmp_path, make, monkeypatch):
    data, out = corpus(tmp_path / "data"), tmp_path / "dump" / "raw"
    for error, status in ((OSError(errno.ENOSPC, "No space left on device"), 2), (KeyboardInterrupt(), 130)):
        written = []

        def write(self, key, matrix, error=error, written=written):
            written.append(key)
            if len(written) == 3:
                raise error

        monkeypatch.setattr(ark.ArkWriter, "write", write)
        assert make(data, out)[0] == status and len(written) == 3
        assert list((tmp_path / "dump").iterdir()) == []
    monkeypatch.undo()
    assert make(data, out)[0] == 0


def test_a_faster_copy_has_features_of_faster_audio(corpus, tmp_path, make):
    """A tone of 500 Hz, 1.25 times as fast, is one of 625 Hz and takes 0.8 of the time."""
    data = corpus(tmp_path / "train")
    (name, location), *_ = read_table(data / "wav.scp").items()
    tone = np.sin(2 * np.pi * 500 * np.arange(16000) / 16000).astype("float32") / 2
    soundfile.write(location, tone, 16000, subtype="FLOAT", format="WAV")
    (data / "utt2speed").write_text("".join(f"{other} 1.25\n" for other in read_table(data / "wav.scp")))
    out = tmp_path / "mfcc"
    assert make(data, out)[0] == 0
    assert float(read_table(f"{out}.utt2dur")[name]) == pytest.approx(0.8, abs=1e-3)
    matrix = Matrices(f"{out}.scp")[name]
    higher = np.sin(2 * np.pi * 625 * np.arange(12800) / 16000).astype("float32") / 2
    expected = Mfcc()(torch.from_numpy(higher)[None])[0].numpy()
    assert matrix.shape == expected.shape
    assert np.abs(matrix - expected)[2:-2].mean() < 0.1 * np.abs(expected).mean()  # but for the resampler's filter
    slower = (data / "utt2speed").read_text().replace("1.25", "0.8")
    (data / "utt2speed").write_text(slower)
    assert "already done" not in make(data, out)[1]


def test_a_torn_record_is_done_again(corpus, tmp_path, make):
    data, out = corpus(tmp_path / "data"), tmp_path / "raw"
    make(data, out)
    record = tmp_path / "raw.json"
    record.write_text(record.read_text()[:20])
    assert "already done" not in make(data, out)[1]
    assert json.loads(record.read_text())["utterances"] == 6
