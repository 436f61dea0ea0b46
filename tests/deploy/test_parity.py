"""How far a program may be from torch: the measures against arithmetic by hand."""

import math

import pytest
import torch

from dirnet.deploy.parity import INT8_TOLERANCE, TOLERANCE, disparity


def test_equal_outputs_are_not_apart():
    values = torch.randn(5, 4).log_softmax(1)
    assert disparity(values, values, "float32") == (0.0, TOLERANCE)
    assert disparity(values, values, "int8") == (pytest.approx(0), INT8_TOLERANCE)


def test_float_programs_differ_by_their_worst_log_posterior():
    values = torch.tensor([0.5, 0.25, 0.25]).log().repeat(3, 1)
    other = values.clone()
    other[1, 2] -= 0.3
    other[2, 0] += 0.1
    assert disparity(values, other, "float32")[0] == pytest.approx(0.3)


def test_int8_programs_differ_by_their_mean_divergence():
    values, other = (torch.tensor(rows, dtype=torch.float64).log() for rows in (
        [[0.5, 0.5], [0.9, 0.1]], [[0.25, 0.75], [0.9, 0.1]]))  # fmt: skip
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert disparity(values, other, "int8")[0] == pytest.approx(divergence / 2)  # the second frame adds none


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_nan_is_never_within_the_tolerance(dtype):
    values = torch.full((2, 3), 1 / 3).log()
    apart, allowed = disparity(values, values * torch.nan, dtype)
    assert not apart <= allowed
