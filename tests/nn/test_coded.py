"""One coded matrix by itself: what may be loaded into it."""

from __future__ import annotations

import pytest
import torch

from dirnet.nn.coded import CodedMatrix


@pytest.mark.parametrize("wrong", [[-1, 3, 7], [0, 3, 20], [3, 0, 7], [0, 3, 3]])
def test_an_index_that_names_no_place_or_one_twice_is_not_loaded(wrong):
    coded = CodedMatrix(6, 10, atoms=4, blocks=3, block=2)  # 4 atoms of 5 blocks: places 0 to 19
    state = coded.state_dict() | {"index": torch.tensor([0, 3, 19], dtype=torch.int32)}
    coded.load_state_dict(state)
    with pytest.raises(RuntimeError, match="index is not 3 ascending places from 0 to 19"):
        coded.load_state_dict(state | {"index": torch.tensor(wrong, dtype=torch.int32)})
