"""Stored outputs recognise their program and no other."""

from __future__ import annotations

import json

import pytest
import torch

from dirnet.deploy.export import build, speech_like
from dirnet.deploy.program import Program
from dirnet.deploy.reference_outputs import compare, record
from dirnet.errors import UserError


@torch.no_grad()
def test_a_program_has_the_outputs_of_its_model_and_no_others(exports, model_of):
    model = model_of(block=8)
    features = speech_like(model.cmvn_mean, model.cmvn_istd, 40)
    reference = json.loads(json.dumps(record(model, features, 1e-4)))
    program = Program(exports / "compressed/encoder.pte")
    expected = model(features[None], torch.tensor([40]))[0][0]
    difference = float((program.stream(features).log_softmax(dim=-1) - expected).abs().max())
    assert compare(program, reference) == difference < 1e-5  # not a bit is lost in the text
    for wrong in (reference | {"tolerance": 0.0}, record(model_of(block=8, seed=1), features, 1e-4)):
        with pytest.raises(UserError, match="encoder.pte differs by .* from the reference outputs in its .json"):
            compare(program, wrong)
    short = reference | {"log_posteriors": record(model, features[:39], 1e-4)["log_posteriors"]}
    with pytest.raises(UserError, match="differs by inf"):
        compare(program, short)


def test_a_program_that_computes_nan_is_refused(model_of):
    model = model_of()
    reference = record(model, speech_like(model.cmvn_mean, model.cmvn_istd, 8), 1e-4)
    program = Program("a.pte", build(model, "dirnet", 4)[0].content)
    program.stream = lambda features: torch.full((8, 42), torch.nan)
    with pytest.raises(UserError, match="differs by nan"):
        compare(program, reference)
