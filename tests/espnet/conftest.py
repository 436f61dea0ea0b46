"""One tiny model, trained by ESPnet itself once for all tests of this folder."""

from __future__ import annotations

import pytest
from tiny_corpus import Trained, make_corpus, write_config


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    """Two layers of 24 units, 6 epochs."""
    root = make_corpus(tmp_path_factory.mktemp("espnet"))
    config = write_config(
        root / "ctc.yaml", specaug=None, specaug_conf=None, encoder_conf={"hidden_size": 24}, optim_conf={"lr": 0.02},
        max_epoch=6,
    )  # fmt: skip
    tiny = Trained(root, config, root / "exp/ctc")
    assert tiny.train(config, tiny.exp) == 0
    return tiny
