"""The bench of stock ESPnet models: the size that results are of stays with them."""

from __future__ import annotations

import json

import pytest

from bench.espnet_models import MODELS, Experiment, markdown
from dirnet.errors import UserError


def result(**compress):
    params = {"dense": {"params": 2000}, "small": {"params": 1100}, "recurrent": [1200, 300]}
    scores = {f"{step}_score": {"perplexity": 9.0} for step in ("dense", "small", "tuned")}
    return {"compress": params | compress, **scores}


def test_results_of_another_size_are_not_mixed_in(tmp_path):
    old, new = list(MODELS)[:2]
    for name, told in ((old, result()), (new, result(size="8x"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(told))
    Experiment(tmp_path, old, MODELS[old], "4x")
    Experiment(tmp_path, new, MODELS[new], "8x")
    with pytest.raises(UserError, match="--size is 8x, but .* holds the model at 4x; give another --out"):
        Experiment(tmp_path, old, MODELS[old], "8x")
    table = markdown(tmp_path)
    assert f"| {old} | 4x | 1,200 | 300 | 2,000 | 1,100 | 9.00 |" in table and f"| {new} | 8x |" in table
