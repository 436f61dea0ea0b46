"""What layers and cells say of how their matrices are coded."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest
from torch import nn

from dirnet.factorization.shift import Shifts
from dirnet.nn import DirNetLSTM, DirNetLSTMCell
from dirnet.nn.coding import CodedLayer, Coding


@pytest.mark.parametrize(("kind", "dense"), [(DirNetLSTM, nn.LSTM), (DirNetLSTMCell, nn.LSTMCell)])
def test_a_layer_holds_the_coding_that_it_was_given(kind, dense):
    given = Coding(block=2, dtype="int8", shifts=1, shift_kind="zero", input_group="shared")
    made = copy.deepcopy(kind(6, 6, layout=[[4, 60]], **asdict(given)))
    assert isinstance(made, CodedLayer) and not isinstance(dense(6, 6), CodedLayer)
    assert made.coding == given and made.layout == [[4, 60]]
    assert (made.block, made.dtype, made.input_group, made.shifts) == (2, "int8", "shared", Shifts(1, "zero"))
    assert all((matrix.block, matrix.dtype, matrix.shifts) == (2, "int8", made.shifts) for matrix in made.groups)


@pytest.mark.parametrize("kind", [DirNetLSTM, DirNetLSTMCell])
def test_a_setting_that_there_is_not_is_refused(kind):
    with pytest.raises(TypeError, match="unexpected keyword argument 'blok'"):
        kind(6, 6, layout=[[4, 60], [4, 60]], blok=2)
