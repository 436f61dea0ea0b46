"""Words of sound that is still coming."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tone_speech import SENTENCES, say

from dirnet.asr.decode import Decoder, GreedyDecoder
from dirnet.asr.features import Mfcc
from dirnet.asr.pieces import of_recording
from dirnet.deploy.program import Program
from dirnet.errors import UserError
from dirnet.live import LiveRecogniser
from dirnet.nn import storage


def whole(tones, samples):
    """Words of the stored model for the recording as a whole."""
    features = Mfcc()(torch.from_numpy(samples)[None])
    model = storage.load(tones / "model")
    with torch.no_grad():
        log_probs = model(features, torch.tensor([features.shape[1]]))[0][0].numpy()
    return Decoder(tones / "lang").decode(log_probs)


@pytest.mark.parametrize("size", [160, 999, 1600, 100000])
def test_the_final_words_are_those_of_the_whole_recording(tones, size):
    search = Decoder(tones / "lang")
    recogniser = LiveRecogniser(Program(tones / "model/encoder.pte"), search)
    for seed, sentence in enumerate(SENTENCES):
        samples, _ = say(sentence, 100 + seed)
        recogniser.start()
        for piece in of_recording(samples, size):
            recogniser.push(piece)
        words, score = whole(tones, samples)
        assert recogniser.finish() == words == sentence.split()
        assert search.result().score == pytest.approx(score, abs=1e-2)


def test_words_appear_soon_after_they_are_said(tones):
    """Not before its first phone, or the one that tells it from other words, and soon after its second one."""
    recogniser = LiveRecogniser(Program(tones / "model/encoder.pte"), Decoder(tones / "lang"))
    assert recogniser.look_ahead_ms == 25 + 3 * 10
    samples, labels = say("TEA SEE SEAT", 3)
    sounding = np.array([label != "<blank>" for label in labels])
    starts = np.flatnonzero(sounding[1:] & ~sounding[:-1]) + 1  # of the phones T IY S IY S IY T
    seen = {}
    for number, piece in enumerate(of_recording(samples, 160)):
        recogniser.push(piece)
        seen.setdefault(tuple(recogniser.words()), (number + 1) * 160)
    allowed = 16 * (recogniser.look_ahead_ms + 60)  # and 60 ms for a model that wants to hear some of the phone
    assert starts[0] < seen["TEA",] < starts[1] + allowed
    assert starts[2] < seen["TEA", "SEE"] < starts[3] + allowed
    assert starts[6] < seen["TEA", "SEE", "SEAT"] < starts[6] + allowed


def test_phones_without_a_graph(tones):
    program = Program(tones / "model/encoder.pte")
    recogniser = LiveRecogniser(program, GreedyDecoder(program.phones))
    for piece in of_recording(say("EAT TEA", 1)[0], 1600):
        recogniser.push(piece)
    assert recogniser.finish() == "IY T T IY".split()


def test_silence_and_nothing_give_no_words(tones):
    recogniser = LiveRecogniser(Program(tones / "model/encoder.pte"), Decoder(tones / "lang"))
    recogniser.push(np.zeros(100, np.float32))
    assert recogniser.words() == recogniser.finish() == []
    recogniser.start()
    recogniser.push(np.zeros(8000, np.float32))
    assert recogniser.finish() == []


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("sample_rate", 8000, "26 MFCC every 10 ms at 16000 Hz by its mfcc, but 26 every 10 ms at 8000 Hz"),
        ("mfcc", json.dumps({"num_ceps": 13}), "wants 13 MFCC"),
        ("mfcc", json.dumps({"num_cepz": 26}), "unknown key 'num_cepz'; did you mean 'num_ceps'"),
    ],
)
def test_constants_that_contradict_each_other(tones, name, value, message):
    program = Program(tones / "model/encoder.pte")
    program.metadata[name] = value
    with pytest.raises(UserError, match=message):
        LiveRecogniser(program, GreedyDecoder())
