"""No stage holds a corpus in memory: peaks with N and 10 N utterances, of the same few files named again and again.

What may grow are lists: names, transcripts, durations. A kilobyte or two an utterance is a list; its samples, features
or posteriors are tens of kilobytes.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dirnet import posteriors, sweep
from dirnet.asr import datadir, decode, features, transcripts
from dirnet.asr.ark import Matrices, write_ark
from dirnet.asr.audio import AudioReader
from dirnet.asr.lexicon import OUTPUTS, PHONES
from dirnet.asr.phone_ngram import PhoneNgram
from dirnet.asr.validation import faults
from dirnet.espnet.corpus import prepare
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of a process")
LIST = 4000  # bytes that an utterance may take in lists and tables
FRAMES = 300
HOURS_1000 = 240_000  # utterances of 15 s


def peak(function, *arguments) -> int:
    """Bytes by which the resident memory of this process grew, at most, while `function` ran."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would hide what this one holds
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _memory("VmRSS")
    function(*arguments)
    return max(0, _memory("VmHWM") - before)


def traced_peak(function, *arguments) -> int:
    """The same of what Python and numpy allocate, exactly; of torch, whose working memory varies by 30 MB, nothing."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _memory(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def growth(function, few: int, many: int, measure=peak) -> float:
    """Bytes an utterance between `function(few)` and `function(many)`, after a run that warms up."""
    function(few)
    return (measure(function, many) - measure(function, few)) / (many - few)


def names(number: int) -> list[str]:
    return [f"spk{index % 977:03d}-{index:07d}" for index in range(number)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """`archive(number, outputs) -> scp` with so many names of the same three matrices (FRAMES, outputs)."""
    folder = tmp_path_factory.mktemp("archive")

    def make(number: int, outputs: int) -> Path:
        rng = np.random.default_rng(0)
        with write_ark(folder / f"{outputs}.ark", folder / f"{outputs}.scp", compress=False) as writer:
            for key in "abc":
                scores = rng.normal(size=(FRAMES, outputs)).astype(np.float32)
                writer.write(key, scores - np.log(np.exp(scores).sum(1, keepdims=True)))
        places = list(datadir.read_table(folder / f"{outputs}.scp").values())
        path = folder / f"{outputs}_{number}.scp"
        path.write_text("".join(f"{name} {places[index % 3]}\n" for index, name in enumerate(names(number))))
        return path

    return make


@pytest.fixture(scope="module")
def corpus_of(tmp_path_factory, archive):
    """`corpus_of(number) -> folder` with data/train and dump/train, every utterance of the same audio file."""
    root = tmp_path_factory.mktemp("corpora")
    made = {}

    def make(number: int) -> Path:
        if number in made:
            return made[number]
        folder = made[number] = root / str(number)
        (folder / "data").mkdir(parents=True)
        (folder / "dump").mkdir()
        values = {
            "wav.scp": lambda name: "/corpora/audio/of/some/length/speech.flac",
            "text": lambda name: "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS AWAY",
            "text_phones": lambda name: " ".join(PHONES[:20]),
            "utt2spk": lambda name: name.partition("-")[0],
            "utt2num_frames": lambda name: str(FRAMES),
            "utt2dur": lambda name: "15.0",
        }
        for table, value in values.items():
            lines = sorted(f"{name} {value(name)}\n" for name in names(number))
            (folder / "data" / table).write_text("".join(lines))
        datadir.write_table(folder / "data/spk2utt", datadir.spk2utt(datadir.read_table(folder / "data/utt2spk")))
        lines = sorted(archive(number, 26).read_text().splitlines(keepends=True))
        (folder / "dump/feats.scp").write_text("".join(lines))
        return folder

    return make


def test_the_measure_sees_what_is_held():
    """The ruler itself: holding matrices shows, reading them one by one does not."""
    size = FRAMES * 42 * 4

    def hold(number):
        return [np.ones(size, np.uint8) for _ in range(number)]

    def read(number):
        for _ in range(number):
            np.ones(size, np.uint8)

    for measure in (peak, traced_peak):
        assert growth(hold, 100, 1000, measure) > 0.8 * size and growth(read, 100, 1000, measure) < 0.1 * size


def test_features(tmp_path, sound):
    """A quarter of a second is 16 kB of samples; a minute of them is transformed at a time."""
    sound(tmp_path / "speech.flac", 0.25)
    config = features.MfccConfig()

    def make(number):
        lines = (f"{name} {tmp_path}/speech.flac\n" for name in names(number))
        (tmp_path / "wav.scp").write_text("".join(lines))
        features.make(tmp_path, str(tmp_path / "raw.1"), config, AudioReader(16000))

    assert growth(make, 400, 2400, traced_peak) < LIST


def test_posteriors(archive, tmp_path, program):
    """The features of an utterance are 31 kB, its posteriors 50 kB."""
    storage.save(AcousticModel(AcousticModelConfig("gru", 8, 1, phones=OUTPUTS, context=0)), tmp_path / "model")

    def run(number):
        options = ("--model", tmp_path / "model", "--feats", archive(number, 26), "--out", tmp_path / "out")
        assert program(posteriors.main, *options, "--batch_frames", 3000)[0] == 0

    assert growth(run, 200, 2000) < LIST


@pytest.mark.parametrize("jobs", [1, 2])
def test_decoding(tones, archive, tmp_path, program, jobs):
    def run(number):
        options = ("--lang", tones / "lang", "--posteriors", archive(number, 42), "--out", tmp_path, "--nj", jobs)
        (tmp_path / "decode.yaml").write_text("beam: 4\nmax_active: 40\n")
        assert program(decode.main, *options, "--config", tmp_path / "decode.yaml")[0] == 0

    assert growth(run, 200, 2000) < LIST


def test_a_sweep_reads_its_set_anew(archive, tones):
    """Each point of a sweep decodes the set; the features stay on the disk."""

    def make(number):
        feats = Matrices(archive(number, 26))
        return sweep._Scorer({name: ["SEE"] for name in feats}, feats, None)

    assert growth(make, 200, 2000) < LIST


def test_tables_and_training_lists_of_1000_hours(corpus_of, tmp_path):
    """What reads a data dir, and what ESPnet is given, in lists; no matrix but the last of each archive."""

    def work(number):
        folder = corpus_of(number)
        assert faults(folder / "data") == []
        kept = prepare(folder / "data", folder / "dump", tmp_path / "set", PHONES, 26, 3, 3600)
        assert kept.utterances == number

    corpus_of(HOURS_1000)
    assert growth(work, HOURS_1000 // 10, HOURS_1000) < LIST


def test_the_bigram_of_smbr(corpus_of):
    place = {phone: number for number, phone in enumerate(PHONES)}

    def estimate(number):
        lines = (line.split()[1:] for line in datadir.read_lines(corpus_of(number) / "data/text_phones"))
        PhoneNgram.estimate(([[(1.0, [place[phone] for phone in said])]] for said in lines), len(PHONES))

    assert growth(estimate, 2400, 24000) < LIST


def test_transcripts_of_1000_hours(corpus_of):
    assert growth(lambda number: transcripts.read_transcripts(corpus_of(number) / "data/text"), 24000, 240000) < LIST


def test_parts_of_a_data_dir(corpus_of):
    assert growth(lambda number: datadir.split(corpus_of(number) / "data", 4), 2400, 24000) < LIST


def test_repairing_a_data_dir(corpus_of, script, tmp_path):
    fix = script("utils/fix_data_dir.py")

    def repair(number):
        folder = tmp_path / str(number)
        if not folder.exists():
            datadir.subset(corpus_of(number) / "data", names(number), folder)
        with open(folder / "text", "a") as stream:
            stream.write("zzz\n")  # a line without words: there is something to repair
        with pytest.raises(SystemExit) as end:
            fix.main([str(folder)])
        assert not end.value.code

    assert growth(repair, 2400, 24000) < 2 * LIST


def test_espnets_own_reader(corpus_of, tmp_path):
    """The data set that trainings read: `kaldi_ark` matrices when asked for, text in a table."""
    dataset = pytest.importorskip("espnet2.train.dataset")

    def read(number):
        folder = corpus_of(number)
        files = [(str(folder / "dump/feats.scp"), "speech", "kaldi_ark"), (str(folder / "data/text"), "text", "text")]
        whole = dataset.ESPnetDataset(files, preprocess=lambda name, data: {**data, "text": np.zeros(3, np.int64)})
        for name in names(number):
            assert whole[name][1]["speech"].shape == (FRAMES, 26)

    assert growth(read, 240, 2400) < LIST
