#!/usr/bin/env python3
"""Make the mini corpus: synthetic English read by espeak-ng voices, for trying the recipe in minutes.

Sentences come from mini_grammar.py, or from a text file for a larger bench. A voice is an accent, a variant, a pitch
and a rate; sentences and voices of train, dev and test are disjoint. Every utterance has noise 15 to 30 dB below the
speech. The same sizes, sentences and seed give the same corpus, however many jobs make it. It says nothing about real
speech.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import mini_grammar
import numpy as np
import soundfile

from dirnet.asr.audio import resample
from dirnet.asr.datadir import Utterance, write_sets
from dirnet.asr.transcripts import read_fields
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_folder, atomic_write, read_json
from dirnet.options import Parser, seed
from dirnet.progress import progress

RATE_HZ = 16000
SETS = ("train", "dev", "test")
ACCENTS = ("en", "en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5",
    "Andy", "Annie", "Gene", "Lee", "linda", "steph", "edward", "rob",
)  # fmt: skip
UTTERANCES_PER_VOICE = 8
FORMAT = 2  # of the recipe below; another one makes the corpus again


@dataclass(frozen=True)
class Voice:
    """One speaker: an espeak-ng accent and variant, a pitch (0-100) and a rate (words a minute)."""

    accent: str
    variant: str
    pitch: int
    rate: int

    @property
    def name(self) -> str:
        """The speaker's name in the data dirs."""
        return f"{self.accent}-{self.variant}-{self.pitch}".lower()


@dataclass(frozen=True)
class Task:
    """What one voice says: sentence and file of each utterance; `seed` is that of the noise and levels."""

    voice: Voice
    seed: int
    lines: tuple[tuple[str, str], ...]


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Make the audio in AUDIO and the data dirs train, dev, test in OUT; a rerun of the same does nothing."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", default="data", type=Path, help="folder of the data dirs")
    parser.add_argument("--audio", default="downloads/mini", type=Path, help="folder of the flac files")
    parser.add_argument("--mini_size", default="400 60 60", help="training, dev and test utterances")
    parser.add_argument("--text", default="", help="sentences, one a line, instead of the grammar's")
    parser.add_argument("--seed", type=seed, default=0, help="of sentences, voices and noise")
    parser.add_argument("--nj", type=int, default=os.cpu_count() or 1, help="parallel processes")
    arguments = parser.parse_args(argv)
    sizes = arguments.mini_size.split()
    if len(sizes) != len(SETS) or not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise UserError(f"--mini_size is {arguments.mini_size!r}, expected three numbers above 0: training, dev and "
                        "test utterances")  # fmt: skip
    if arguments.nj < 1:
        raise UserError(f"--nj is {arguments.nj}, expected at least 1 process")
    number = sum(map(int, sizes))
    if arguments.text:
        sentences = drawn(arguments.text, number, arguments.seed)
    else:
        sentences = mini_grammar.sentences(number, arguments.seed)
    corpus = plan(dict(zip(SETS, map(int, sizes), strict=True)), sentences, arguments.seed)
    record = {"format": FORMAT, "size": sizes, "seed": arguments.seed}
    if arguments.text:
        record["sentences"] = hashlib.sha256("\n".join(sentences).encode()).hexdigest()
    if read_json(arguments.audio / "mini.json") == record:
        print(f"{arguments.audio}: already done")
    else:
        library()
        with atomic_folder(arguments.audio, mark="mini.json") as temporary:
            seconds = synthesise([task for tasks in corpus.values() for task in tasks], temporary, arguments.nj)
            with atomic_write(temporary / "mini.json") as stream:
                json.dump(record, stream)
        print(f"{arguments.audio}: {number} utterances, {seconds / 60:.1f} minutes of synthetic speech")
    root = arguments.audio.absolute()
    write_sets(
        arguments.out,
        {
            name: [
                Utterance(Path(file).stem, str(root / file), sentence, task.voice.name)
                for task in tasks
                for sentence, file in task.lines
            ]
            for name, tasks in corpus.items()
        },
    )
    return 0


def drawn(path: str, number: int, seed: int) -> list[str]:
    """`number` different sentences of the text file `path`, in an order that `seed` decides."""
    sentences = list(dict.fromkeys(" ".join(words).upper() for _, words in read_fields(path) if words))
    if len(sentences) < number:
        raise UserError(f"{path} has {len(sentences)} different sentences, expected {number}; lower --mini_size")
    random.Random(f"sentences {seed}").shuffle(sentences)
    return sentences[:number]


def plan(sizes: dict[str, int], sentences: list[str], seed: int) -> dict[str, list[Task]]:
    """Who says which of `sentences` in each set; depends on the arguments only."""
    rng = random.Random(f"voices {seed}")
    voices = [Voice(a, v, rng.randint(30, 70), rng.randint(140, 185)) for a in ACCENTS for v in VARIANTS]
    rng.shuffle(voices)
    texts = iter(sentences)
    corpus = {}
    wanted = {name: max(1, round(size / UTTERANCES_PER_VOICE)) for name, size in sizes.items()}
    numbers = {name: min(number, len(voices) // len(sizes)) for name, number in wanted.items()}
    numbers["train"] = min(wanted["train"], len(voices) - numbers["dev"] - numbers["test"])
    for name, size in sizes.items():
        number = numbers[name]
        own, voices = voices[:number], voices[number:]
        lines: dict[Voice, list[tuple[str, str]]] = {voice: [] for voice in own}
        for index in range(size):
            voice = own[index % number]
            lines[voice].append((next(texts), f"{name}/{voice.name}-{index:04d}.flac"))
        corpus[name] = [Task(voice, rng.getrandbits(31), tuple(said)) for voice, said in lines.items()]
    return corpus


def synthesise(tasks: list[Task], folder: Path, jobs: int) -> float:
    """Write the flac files of `tasks` below `folder`; returns their seconds.

    espeak-ng keeps state from one sentence to the next, so each voice speaks in a fresh process: what it says cannot
    depend on the number of jobs.
    """
    import torch  # once, for all processes; at the head of the file it would cost every rerun its seconds

    torch.set_num_threads(1)
    for name in {os.path.dirname(file) for task in tasks for _, file in task.lines}:
        (folder / name).mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs, _ignore_interrupts, maxtasksperchild=1) as pool:
        done = pool.imap_unordered(_speak, [(task, str(folder)) for task in tasks], chunksize=1)
        return sum(progress(done, len(tasks), "mini corpus", unit="voices"))


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool


def _speak(job: tuple[Task, str]) -> float:
    task, folder = job
    rng = np.random.default_rng(task.seed)
    espeak, seconds = Espeak(task), 0.0
    for sentence, file in task.lines:
        speech = espeak.say(sentence.lower(), round(task.voice.rate * rng.uniform(0.92, 1.08)))
        samples = degrade(resample(speech, espeak.rate_hz, RATE_HZ), rng)
        flac = io.BytesIO()  # libsndfile would not say that a disk is full
        soundfile.write(flac, samples, RATE_HZ, format="FLAC", subtype="PCM_16")
        with open(os.path.join(folder, file), "wb") as stream:
            stream.write(flac.getvalue())
        seconds += len(samples) / RATE_HZ
    return seconds


def degrade(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`speech` (n,) at a random level, between short pauses, in white and low-passed noise 15 to 30 dB below it."""
    speech = np.pad(speech, [round(RATE_HZ * rng.uniform(0.05, 0.25)) for _ in range(2)])
    white = rng.normal(size=len(speech))
    low = np.convolve(rng.normal(size=len(speech)), np.full(16, 0.25), mode="same")  # same power as the white noise
    noise = rng.uniform() * white + rng.uniform() * low
    snr_db = rng.uniform(15, 30)
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    mixed = speech + noise
    return (mixed / np.abs(mixed).max() * 10 ** (-rng.uniform(1, 12) / 20)).astype(np.float32)


class Espeak:
    """The espeak-ng library speaking with the voice of a task."""

    def __init__(self, task: Task):
        self.espeak, data = library()
        self.rate_hz = self.espeak.espeak_Initialize(2, 0, data.encode(), 0)  # 2: to a callback, synchronously
        if self.rate_hz <= 0:
            raise UserError(f"espeak-ng cannot read its voices in {data}; reinstall espeakng-loader")
        self._parts: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)  # kept alive as long as the library may call it
        self.espeak.espeak_SetSynthCallback(self._callback)
        name = f"{task.voice.accent}+{task.voice.variant}"
        if self.espeak.espeak_SetVoiceByName(name.encode()) != 0:
            raise UserError(f"this espeak-ng lacks the voice {name}; pip install --upgrade espeakng-loader")
        self.espeak.espeak_SetParameter(3, task.voice.pitch, 0)
        # Breath and noise come from a generator of its own and from the C library's.
        self.espeak.espeak_ng_SetRandSeed(ctypes.c_long(task.seed))
        ctypes.CDLL(None).srand(task.seed)

    def say(self, text: str, rate: int) -> np.ndarray:
        """Samples (n,) float32 in -1..1, at `rate_hz`, of `text` at `rate` words a minute."""
        self._parts.clear()
        self.espeak.espeak_SetParameter(1, rate, 0)
        encoded = text.encode() + b"\0"
        self.espeak.espeak_Synth(encoded, len(encoded), 0, 1, 0, 1, None, None)  # from position 0, characters, UTF-8
        if not self._parts:
            raise UserError(f"espeak-ng said nothing for {text!r}; pip install --upgrade espeakng-loader")
        return np.concatenate(self._parts).astype(np.float32) / 32768

    def _receive(self, samples, number: int, events) -> int:
        if samples and number > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (number,)).copy())
        return 0


def library() -> tuple[ctypes.CDLL, str]:
    """The espeak-ng library and the folder of its voices, from the package espeakng-loader."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("the mini corpus needs espeak-ng, which is not installed; pip install -e .[mini]") from None
    try:
        return ctypes.CDLL(espeakng_loader.get_library_path()), espeakng_loader.get_data_path()
    except OSError as error:
        raise UserError(f"espeak-ng cannot be loaded ({error}); pip install -e .[mini]") from None


if __name__ == "__main__":
    main()
