"""Frames as they come give the logits of the whole utterance."""

from __future__ import annotations

import pytest
import torch

from dirnet.deploy.export import build, speech_like
from dirnet.deploy.program import Program
from dirnet.deploy.utterance import Utterance

PIECES = ([], [1], [5], [9, 1], [10] * 7, [3, 0, 40, 1, 1], [150])


def check(program, model):
    for number, sizes in enumerate(PIECES):
        features = speech_like(model.cmvn_mean, model.cmvn_istd, max(sum(sizes), 1), seed=number)[: sum(sizes)]
        utterance = Utterance(program)
        pushed = torch.cat([torch.zeros(0, 42), *(utterance.push(piece) for piece in features.split(sizes))])
        found = torch.cat([pushed, utterance.finish()])
        expected = program.stream(features) if sizes else torch.zeros(0, 42)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # nothing is kept back but for its context, or for a whole call where their size is fixed
        least = program.chunk if program.max_chunk == program.chunk else 1
        assert len(found) - len(pushed) < (program.context + 1) / program.stride + least + 1


def most_frames_ahead(program):
    """Found by pushing frame after frame: the newest one when an output comes, less the one at its centre."""
    utterance, found = Utterance(program), []
    for frame in range(60):
        for _ in utterance.push(program.cmvn_mean[None]):
            found.append(frame - len(found) * program.stride)
    return max(found)


@pytest.mark.parametrize("name", ["compressed", "dense"])
def test_pieces_give_what_the_whole_gives(exports, model_of, name):
    check(Program(exports / name / "encoder.pte"), model_of(dense=name == "dense"))


@pytest.mark.parametrize("backend, chunk", [("dirnet", 4), ("xnnpack", 3)])
def test_strides_and_calls_of_several_outputs(model_of, backend, chunk):
    model = model_of("gru", layers=1, frame_stride=3)
    program = Program("the program", build(model, backend, chunk)[0].content)
    check(program, model)
    assert Utterance(program).frames_ahead == most_frames_ahead(program)
