"""Speech of a kind: every phone is a tone, and a model that hears them, without training or a corpus.

The model's GRU keeps its random weights; its output layer is the ridge regression from the states to the phones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dirnet.asr import graph, lexicon, ngram
from dirnet.asr.features import Mfcc
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig

RATE = 16000
WORDS = {"SEE": "S IY", "SEA": "S IY", "SEAT": "S IY T", "TEA": "T IY", "EAT": "IY T"}
SENTENCES = ["SEE TEA", "EAT SEAT", "TEA SEE SEAT", "SEE SEAT", "EAT TEA EAT"]
TONES = {"S": 3000.0, "IY": 500.0, "T": 1300.0}  # Hz
PHONE_S, GAP_S = 0.08, 0.05


def say(sentence: str, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Samples (n,) float32 of the sentence at 16 kHz, and the phone or blank that sounds in each."""
    rng = np.random.default_rng(seed)
    samples, labels = [np.zeros(int(0.1 * RATE))], ["<blank>"] * int(0.1 * RATE)
    for phone in (phone for word in sentence.split() for phone in WORDS[word].split()):
        time = np.arange(int(PHONE_S * RATE * rng.uniform(0.8, 1.2))) / RATE
        tone = 0.3 * np.sin(2 * np.pi * TONES[phone] * rng.uniform(0.97, 1.03) * time)
        samples += [tone, np.zeros(int(GAP_S * RATE))]
        labels += [phone] * len(time) + ["<blank>"] * int(GAP_S * RATE)
    samples = np.concatenate(samples)
    return (samples + 0.003 * rng.normal(size=len(samples))).astype(np.float32), labels


def make_lang(folder: Path) -> Path:
    """A lang folder with the graph of `WORDS` and a bigram of `SENTENCES`."""
    folder.mkdir(parents=True)
    entries = {word: [tuple(phones.split())] for word, phones in WORDS.items()}
    lexicon.write_lexicon(folder / "lexicon.txt", entries)
    symbols = ["<eps>", *sorted(entries), "#0", "<s>", "</s>"]
    (folder / "words.txt").write_text("".join(f"{word} {n}\n" for n, word in enumerate(symbols)))
    (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in lexicon.TOKENS))
    (folder / "lang.json").write_text('{"silence": "none"}')
    ngram.estimate([s.split() for s in SENTENCES], 2, entries).write_arpa(folder / "lm.arpa")
    try:
        graph.main(["--lang", str(folder), "--arpa", str(folder / "lm.arpa")])
    except SystemExit as end:
        if end.code:
            raise
    return folder


@torch.no_grad()
def make_model(folder: Path, stride: int = 1) -> Path:
    """A stored model that hears the tones; its outputs are those of every lang folder."""
    mfcc, sounds = Mfcc(), [say(sentence, seed) for seed, sentence in enumerate(SENTENCES * 4)]
    features = [mfcc(torch.from_numpy(samples)[None])[0] for samples, _ in sounds]
    middle = mfcc.config.window_samples // 2
    labels = [np.array(own)[middle :: mfcc.config.shift_samples] for _, own in sounds]
    labels = [own[: len(frames)] for own, frames in zip(labels, features, strict=True)]
    together = torch.cat(features)
    torch.manual_seed(0)
    model = AcousticModel(
        AcousticModelConfig(
            "gru", 48, 1, phones=lexicon.OUTPUTS, context=3, frame_stride=stride, mfcc={"num_ceps": 26},
            cmvn_mean=tuple(together.mean(0).tolist()), cmvn_istd=tuple((1 / together.std(0)).tolist()),
        )
    ).eval()  # fmt: skip
    hidden = torch.cat([model.rnn(model.splice(model.normalise(f[None])))[0][0] for f in features])
    wanted = np.concatenate([own[::stride] for own in labels])
    target = torch.from_numpy(wanted[:, None] == np.array(lexicon.OUTPUTS)).float()
    inputs = torch.cat([hidden, torch.ones(len(hidden), 1)], 1)
    weights = torch.linalg.solve(inputs.T @ inputs + 0.1 * torch.eye(49), inputs.T @ target)
    model.output.weight.copy_(15 * weights[:48].T)
    model.output.bias.copy_(15 * weights[48])
    storage.save(model, folder)
    return folder
