"""What sMBR training needs beyond CTC's: paths of the transcripts, the objective of a fine-tuning."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dirnet.asr.phone_ngram import PhoneNgram
from dirnet.errors import UserError
from dirnet.espnet.smbr_setup import lattices, refuse_other_ngram, take_objective

PHONES = ["AH", "B", "IY", "SIL", "SPN"]


def sequences(lattice) -> set[str]:
    chosen = itertools.product(*([said for _, said in choices] for choices in lattice))
    return {" ".join(PHONES[phone] for said in path for phone in said) for path in chosen}


@pytest.fixture
def corpus(tmp_path) -> Path:
    (tmp_path / "lexicon.txt").write_text("BE B IY\nBE B AH\nA AH\n")
    (tmp_path / "text").write_text("u1 BE A\nu2 A\nu3 A UNHEARD\n")
    (tmp_path / "used").write_text("u1 B IY AH\nu3 AH SPN\n")  # u2 was left out
    return tmp_path


@pytest.mark.parametrize(
    "silence, first",
    [
        ("none", {"B IY AH", "B AH AH"}),
        ("ends", {f"{a}B {v} AH{b}" for a in ("", "SIL ") for v in ("IY", "AH") for b in ("", " SIL")}),
    ],
)
def test_every_pronunciation_with_optional_silence(corpus, silence, first):
    (corpus / "lang.json").write_text(f'{{"silence": "{silence}"}}')
    found = [sequences(lattice) for lattice in lattices(corpus, corpus, corpus / "used", PHONES)]
    assert found[0] == first and "AH SPN" in found[1] and len(found) == 2


def test_phones_serve_without_words(corpus, capsys):
    (corpus / "lexicon.txt").unlink()
    found = [sequences(lattice) for lattice in lattices(corpus, corpus, corpus / "used", PHONES)]
    assert found == [{"B IY AH"}, {"AH SPN"}] and "without variants" in capsys.readouterr().out


def test_a_training_by_other_pronunciations_is_noticed(corpus, tmp_path):
    def estimated(order=2):
        return PhoneNgram.estimate(lattices(corpus, corpus, corpus / "used", PHONES), len(PHONES), order)

    exp = tmp_path / "exp"
    estimated().save(exp / "phone_ngram.npz")
    (corpus / "lexicon.txt").write_text("BE B IY\nA AH\n")
    refuse_other_ngram(estimated(), exp)  # nothing was trained
    (exp / "checkpoint.pth").touch()
    with pytest.raises(UserError, match="other pronunciations or transcripts: its phone n-gram .*phone_ngram.npz"):
        refuse_other_ngram(estimated(), exp)
    refuse_other_ngram(estimated(3), exp)  # another order is told by its name
    (corpus / "lexicon.txt").write_text("BE B AH\nBE B IY\nA AH\n")
    refuse_other_ngram(estimated(), exp)


def test_the_objective_takes_the_place_of_ctcs():
    smbr = {"model": "dirnet_smbr", "model_conf": {"acoustic_scale": 0.7}, "optim_conf": {"lr": 1.0}}
    config = {"model": "dirnet_ctc", "model_conf": {"distill": {"weight": 0.5}}, "optim_conf": {"lr": 2.0}}
    take_objective(config, smbr, Path("smbr.yaml"))
    assert config["model"] == "dirnet_smbr" and config["optim_conf"] == {"lr": 2.0}
    assert config["model_conf"] == {"acoustic_scale": 0.7, "distill": {"weight": 0.5}}
    assert config["best_model_criterion"] == [["valid", "smbr_acc", "max"]]
    with pytest.raises(UserError, match="smbr.yaml: model is 'dirnet_ctc', expected dirnet_smbr"):
        take_objective(config, {"model": "dirnet_ctc"}, Path("smbr.yaml"))
