"""Stored outputs recognise their program and no other."""

from __future__ import annotations

import json

import pytest
import torch

from dirnet.deploy.export import build, speech_like
from dirnet.deploy.parity import INT8_TOLERANCE, TOLERANCE
from dirnet.deploy.program import Program
from dirnet.deploy.reference_outputs import compare, record
from dirnet.errors import UserError


@torch.no_grad()
def test_a_program_has_the_outputs_of_its_model_and_no_others(exports, model_of):
    model = model_of(block=8)
    features = speech_like(model.cmvn_mean, model.cmvn_istd, 40)
    reference = json.loads(json.dumps(record(model, features)))
    program = Program(exports / "compressed/encoder.pte")
    expected = model(features[None], torch.tensor([40]))[0][0]
    difference = float((program.stream(features).log_softmax(dim=-1) - expected).abs().max())
    assert compare(program, reference) == (difference, TOLERANCE) and difference < 1e-5  # not a bit is lost in the text
    with pytest.raises(UserError, match="encoder.pte differs by .* from the reference outputs in its .json"):
        compare(program, record(model_of(block=8, seed=1), features))
    short = reference | {"log_posteriors": record(model, features[:39])["log_posteriors"]}
    with pytest.raises(UserError, match="differs by inf"):
        compare(program, short)


def test_an_int8_program_is_compared_by_divergence(model_of):
    model = model_of(dtype="int8", block=8)
    features = speech_like(model.cmvn_mean, model.cmvn_istd, 40)
    program = Program("a.pte", build(model, "dirnet", 4)[0].content)
    apart, limit = compare(program, record(model, features))
    assert 0 < apart < 1e-3 < limit == INT8_TOLERANCE
    with torch.no_grad():
        model.output.weight.mul_(20)  # posteriors so sharp that rounding moves them: no program of this model
    with pytest.raises(UserError, match="differs by"):
        compare(program, record(model, features))


def test_a_program_that_computes_nan_is_refused(model_of):
    model = model_of()
    reference = record(model, speech_like(model.cmvn_mean, model.cmvn_istd, 8))
    program = Program("a.pte", build(model, "dirnet", 4)[0].content)
    program.stream = lambda features: torch.full((8, 42), torch.nan)
    with pytest.raises(UserError, match="differs by nan"):
        compare(program, reference)
