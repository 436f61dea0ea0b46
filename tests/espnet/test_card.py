"""The model card of a package: what the hub reads, and nothing that the experiment did not leave."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from dirnet.compression.compressor import compress
from dirnet.compression.report import size_figures
from dirnet.errors import UserError
from dirnet.espnet.card import About, card
from dirnet.nn import storage


@pytest.fixture
def exp(trained, tmp_path):
    """A compressed model with every result that a recipe leaves."""
    exp = tmp_path / "exp"
    dense = storage.load(trained.exp)
    model, report = compress(dense, "3x", "svd", progress=False)
    storage.save(model, exp)
    (exp / "start").mkdir()
    (exp / "start/compression.json").write_text(json.dumps(report))
    (exp / "decode_test").mkdir()
    score = {"percent": 12.341, "percent_low": 11, "percent_high": 13.5, "interval": "95 % bootstrap over 9 utterances"}
    (exp / "decode_test/per.json").write_text(json.dumps(score))
    timing = {"rtf": 0.00234, "rtf_p50": 0.00123, "timed": "acoustic model without MFCC"}
    engine = {"engine": "executorch dirnet", "dtype": "fp32", "chunk": 16, "device": "host"}
    (exp / "rtf.json").write_text(json.dumps({**timing, **engine}))
    return exp


def test_the_front_matter_is_what_the_hub_reads(exp):
    shown = card(exp, storage.load(exp), "small.zip", About("de", "cc0-1.0", ("voices",)))
    front = yaml.safe_load(shown.split("---\n")[1])
    assert front["tags"] == ["espnet", "audio", "automatic-speech-recognition"]
    assert (front["language"], front["license"], front["datasets"]) == ("de", "cc0-1.0", ["voices"])
    untold = yaml.safe_load(card(exp, storage.load(exp), "small.zip").split("---\n")[1])
    assert untold.keys() == {"tags", "library_name", "pipeline_tag"}  # nobody said a language, a licence or a corpus


def test_the_card_tells_what_was_measured(exp, trained):
    model = storage.load(exp)
    shown, size, dense = card(exp, model, "small.zip"), size_figures(model), size_figures(storage.load(trained.exp))
    assert f"| this model | {size['params']:,} | {size['bytes']:,} |" in shown
    assert f"| the dense one | {dense['params']:,} | {dense['bytes']:,} |" in shown
    assert "* test PER: 12.34 % (11.00 to 13.50, 95 % bootstrap over 9 utterances)" in shown
    assert "* median RTF 0.0012: executorch dirnet, fp32, 16 outputs a call, host" in shown
    assert "* compressed by svd to 3x" in shown and 'from_pretrained("small.zip"' in shown


def test_what_was_not_measured_is_not_told(trained, tmp_path):
    for name in ("model.json", "model.safetensors"):
        shutil.copy(trained.exp / name, tmp_path)
    shown = card(tmp_path, storage.load(tmp_path), "small.zip")
    assert "Not decoded or timed." in shown and "compressed by" not in shown and "the dense one" not in shown
    assert "* trained for 6 epochs with ESPnet" in shown
    description = json.loads((tmp_path / "model.json").read_text())
    description["extra"]["training"] |= {"epochs": 1, "averaged": [1]}
    (tmp_path / "model.json").write_text(json.dumps(description))
    shown = card(tmp_path, storage.load(tmp_path), "small.zip")
    assert "* trained for 1 epoch with ESPnet" in shown and ", epoch 1, chosen by" in shown


def test_a_damaged_result_is_an_error(exp):
    (exp / "decode_test/per.json").write_text("{")
    with pytest.raises(UserError, match="per.json is not JSON; delete it and decode again"):
        card(exp, storage.load(exp), "small.zip")
