"""The sweeps on a model that has learned a toy language: the curve is the path's own, rows last, bad input is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dirnet import sweep
from dirnet.asr import graph, lexicon, ngram
from dirnet.asr.ark import write_ark
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig

LEXICON = "TWO T UW\nTOOTH T UW TH\nREAD R IY D\nRED R EH D\nDAD D AE D\nA AH\nBUT B AH T\n"
SENTENCES = ["TWO BUT RED", "A TOOTH", "READ A RED TOOTH", "DAD READ A TOOTH", "BUT A RED DAD READ TWO", "DAD BUT TWO"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Folder with lang, feats.scp, text, and a model that knows the language: every phone is a vector of its own."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "set").mkdir()
    (folder / "set/text").write_text("".join(f"u{n} {line}\n" for n, line in enumerate(SENTENCES)))
    (folder / "lexicon").write_text(LEXICON)
    lang = folder / "lang"
    for main, *options in (
        (lexicon.main, "--data", folder, "--sets", "set", "--lang", lang, "--lexicon", folder / "lexicon"),
        (ngram.main, "--text", folder / "set/text", "--order", "2", "--vocab", folder / "lexicon",
         "--out", lang / "lm.arpa"),
        (graph.main, "--lang", lang, "--arpa", lang / "lm.arpa"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main([str(option) for option in options])
        assert not ended.value.code
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    vectors = rng.normal(size=(42, 26)).astype(np.float32)
    known = {line.split()[0]: line.split()[1:] for line in LEXICON.splitlines()}
    targets = [[lexicon.OUTPUTS.index(p) for word in line.split() for p in known[word]] for line in SENTENCES]
    feats = []
    with write_ark(folder / "f.ark", folder / "feats.scp", compress=False) as writer:
        for number, phones in enumerate(targets):
            frames = np.repeat(np.stack([vectors[phone] for phone in phones]), 4, axis=0)
            feats.append(torch.from_numpy(frames + 0.1 * rng.normal(size=frames.shape).astype(np.float32)))
            writer.write(f"u{number}", feats[-1].numpy())
    model = AcousticModel(AcousticModelConfig("lstm", 32, 2, phones=tuple(lexicon.OUTPUTS), context=0))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    lengths = torch.tensor([len(frames) for frames in feats])
    batch = torch.nn.utils.rnn.pad_sequence(feats, batch_first=True)
    for _ in range(150):
        log_probs, steps = model(batch, lengths)
        loss = torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1), torch.tensor(sum(targets, [])), steps, torch.tensor(list(map(len, targets)))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    storage.save(model, folder / "model")
    return folder


def options(speech, out, *more):
    return ("--model", speech / "model", "--feats", speech / "feats.scp", "--ref", speech / "set/text",
            "--lang", speech / "lang", "--out", out, *more)  # fmt: skip


def test_too_little_energy_at_the_start_loses_the_model(speech, program, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "VARTHETAS", (1e-3, 1e7))
    status, shown, error = program(sweep.main, "vartheta", *options(speech, tmp_path, "--size", "1.8x"))
    assert status == 0, error
    low, high = (json.loads(line) for line in (tmp_path / "vartheta.jsonl").read_text().splitlines())
    assert (low["x"], high["x"]) == (1e-3, 1e7)
    assert high["f_score"] > low["f_score"] and high["params"] > low["params"]  # nothing filled the poor one up
    assert (tmp_path / "vartheta.png").read_bytes().startswith(b"\x89PNG")
    assert f"| 1e+07 | {high['params']:,} | {high['f_score']:.3f} |" in (tmp_path / "vartheta.md").read_text()
    with open(tmp_path / "vartheta.jsonl", "a") as stream:
        stream.write('{"key": "varth')  # torn by a killed sweep
    status, again, _ = program(sweep.main, "vartheta", *options(speech, tmp_path, "--size", "1.8x"))
    assert status == 0 and len(again.splitlines()) == 1  # nothing was computed twice
    status, _, error = program(sweep.main, "vartheta", *options(speech, tmp_path, "--size", "2x"))
    assert status == 2 and "is of size 1.8x, not 2x" in error and len(error.splitlines()) == 1
    heard = tmp_path / "text"  # another set in the place of the old one
    heard.write_text((speech / "set/text").read_text().replace(" ", " A ", 1))
    rows = [json.loads(line) for line in (tmp_path / "vartheta.jsonl").read_text().splitlines()[:2]]
    for row in rows:
        row["setting"]["set"] = str(heard)
    (tmp_path / "vartheta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, error = program(sweep.main, "vartheta", *options(speech, tmp_path, "--size", "1.8x", "--ref", heard))
    assert status == 2 and "is of utterances " in error


def test_widths_compare_svd_and_dirnet_at_equal_params(speech, program, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "TABLE_3", (sweep.TABLE_3[0], sweep.TABLE_3[3]))
    status, _, error = program(sweep.main, "widths", *options(speech, tmp_path))
    assert status == 0, error
    rows = {row["key"]: row for row in json.loads((tmp_path / "widths.json").read_text())}
    assert list(rows) == ["dense", "svd 22 26", "dirnet 22 26", "svd 8 13", "dirnet 8 13"]
    for widths in ("22 26", "8 13"):
        ours, theirs = rows[f"dirnet {widths}"], rows[f"svd {widths}"]
        assert 0.97 * theirs["params"] < ours["params"] <= theirs["params"]
    assert (tmp_path / "widths.png").read_bytes().startswith(b"\x89PNG")
    measured = f"| 8 13 | {theirs['params']:,} | {theirs['wer']:.2f} | {ours['wer']:.2f} "
    assert measured + "| 120, 150, 180, 195, 200 | 12.6 | 12.5 |" in (tmp_path / "widths.md").read_text()


def test_f_score_is_the_f1_of_aligned_words(speech):
    rows = sweep.read_transcripts(speech / "set/text")

    class Parrot:
        """Says every sentence without its first word."""

        said = iter([line.split()[1:] for line in SENTENCES])

        def decode(self, log_probs):
            return next(self.said), 0.0

    scorer = sweep._Scorer(rows, sweep.Matrices(speech / "feats.scp"), Parrot())
    score = scorer.score(storage.load(speech / "model"))
    words = sum(len(line.split()) for line in SENTENCES)
    hits, said = words - len(SENTENCES), words - len(SENTENCES)
    assert score["f_score"] == pytest.approx(2 * hits / (words + said))
    assert score["wer"] == pytest.approx(100 * len(SENTENCES) / words)


def test_a_set_without_features_is_refused(speech, program, tmp_path):
    (tmp_path / "text").write_text("u0 TWO\nu99 TWO\n")
    status, _, error = program(sweep.main, "gamma", *options(speech, tmp_path / "out"), "--ref", tmp_path / "text")
    assert status == 2 and "lacks u99" in error and not (tmp_path / "out").exists()
    status, _, error = program(sweep.main, "widths", *options(speech, tmp_path / "out", "--size", "9999x"))
    assert status == 2 and "--size 9999x goes with vartheta and gamma" in error and not (tmp_path / "out").exists()


def test_models_that_no_sweep_takes(speech, program, tmp_path):
    shape = {"rnn_type": "lstm", "hidden_size": 8, "num_layers": 1, "phones": tuple(lexicon.OUTPUTS), "context": 0}
    storage.save(AcousticModel(AcousticModelConfig(**shape, bidirectional=True)), tmp_path / "both")
    storage.save(AcousticModel(AcousticModelConfig(**shape, compression=([4, 20], [4, None]))), tmp_path / "small")
    rest = options(speech, tmp_path / "out")[2:]
    assert "both is bidirectional" in program(sweep.main, "widths", "--model", tmp_path / "both", *rest)[2]
    assert "small is compressed already" in program(sweep.main, "gamma", "--model", tmp_path / "small", *rest)[2]
    assert not (tmp_path / "out").exists()
