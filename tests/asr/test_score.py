from __future__ import annotations

import json
import stat

import numpy as np
import pytest

from dirnet.asr import score

SCLITE_OUTPUT = """
     |   SPKR    | # Snt  # Wrd  | Corr    Sub    Del    Ins    Err  S.Err |
     |===========+===============+=========================================|
     | u         |    3      9   |    6      1      2      1      4      3 |
     |=====================================================================|
     | Sum       |    3      9   |    6      1      2      1      4      3 |
     |=====================================================================|
     | Mean      |  3.0    9.0   |  6.0    1.0    2.0    1.0    4.0    3.0 |
"""


def random_pair(random):
    words = "a b c d e".split()
    return [str(w) for w in random.choice(words, random.integers(1, 9))], [
        str(w) for w in random.choice(words, random.integers(0, 9))
    ]


def test_counts_are_least_edits_and_consistent(edits):
    random = np.random.default_rng(0)
    pairs = {f"u{n}": random_pair(random) for n in range(300)}
    rows = score.count({u: r for u, (r, _) in pairs.items()}, {u: h for u, (_, h) in pairs.items()})
    for row in rows:
        reference, hypothesis = pairs[row.utterance]
        assert row.errors == edits(reference, hypothesis)
        assert len(hypothesis) - len(reference) == row.insertions - row.deletions


def test_bootstrap_covers_the_true_rate():
    """Of 95 % intervals about 95 % hold the rate that the errors were drawn with."""
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        tokens = random.integers(5, 20, size=150)
        low, high = score.interval(random.binomial(tokens, 0.2), tokens, samples=300, seed=trial)
        covered += low <= 0.2 <= high
    assert 50 <= covered <= 60


def test_interval_is_wider_over_speakers_who_differ():
    random = np.random.default_rng(0)
    rows, speakers = [], {}
    for speaker in range(25):
        rate = 0.05 if speaker % 2 else 0.5
        for utterance in range(20):
            name = f"s{speaker}-{utterance}"
            speakers[name] = f"s{speaker}"
            rows.append(score.Counts(name, ("w",) * 10, (), int(random.binomial(10, rate)), 0, 0))
    alone, grouped = score.summarize(rows), score.summarize(rows, speakers)
    assert alone["percent"] == grouped["percent"]
    assert "500 utterances" in alone["interval"] and "25 speakers" in grouped["interval"]
    width = [r["percent_high"] - r["percent_low"] for r in (alone, grouped)]
    assert width[1] > 1.5 * width[0]


@pytest.fixture
def texts(tmp_path):
    """References of three utterances; the hypothesis of u3 is missing, one of a stranger is there."""
    (tmp_path / "text").write_text("u1 THE CAT SAT\nu2 A DOG RAN OFF\nu3 GO ON\n")
    (tmp_path / "hyp").write_text("u2 A DOG RAN OF\nu1 THE CAT SAT DOWN\nu9 WHO\n")
    return tmp_path


def test_program_counts_missing_hypotheses_as_deletions(program, texts, monkeypatch):
    monkeypatch.setattr(score, "find_sclite", lambda: None)
    status, out, _ = program(score.main, "--ref", texts / "text", "--hyp", texts / "hyp", "--out", texts / "out")
    assert status == 0
    result = json.loads((texts / "out" / "wer.json").read_text())
    edits = {name: result[name] for name in ("substitutions", "deletions", "insertions", "tokens", "missing")}
    assert edits == {"substitutions": 1, "deletions": 2, "insertions": 1, "tokens": 9, "missing": ["u3"]}
    assert result["percent"] == pytest.approx(400 / 9) and result["wrong_utterances"] == 3
    assert result["percent_low"] <= result["percent"] <= result["percent_high"]
    assert "u3" in out and "u9" in out and "44.44 %" in out
    table = (texts / "out" / "per_utt.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["id", "ref", "hyp", "S", "D", "I", "N"]
    assert table[1].split("\t") == ["u1", "THE CAT SAT", "THE CAT SAT DOWN", "0", "0", "1", "3"]
    assert table[3].split("\t") == ["u3", "GO ON", "", "0", "2", "0", "2"]
    assert (texts / "out" / "hyp.trn").read_text().splitlines()[2] == " (u3)"
    assert (texts / "out" / "ref.trn").read_text().splitlines()[0] == "THE CAT SAT (u1)"


def test_phone_and_word_scores_live_side_by_side(program, texts):
    program(score.main, "--ref", texts / "text", "--hyp", texts / "hyp", "--out", texts / "out")
    arguments = ["--ref", texts / "text", "--hyp", texts / "text", "--out", texts / "out", "--metric", "per"]
    status, out, _ = program(score.main, *arguments)
    assert status == 0 and out.startswith("PER 0.00 %")
    names = {path.name for path in (texts / "out").iterdir()}
    assert names == {
        *("wer.json", "per_utt.tsv", "ref.trn", "hyp.trn"),
        *("per.json", "per_utt_phones.tsv", "ref_phones.trn", "hyp_phones.trn"),
    }


def test_sclites_totals_are_read(program, texts, monkeypatch):
    fake = texts / "sclite"
    fake.write_text(f"#!/bin/sh\ncat <<'END'\n{SCLITE_OUTPUT}\nEND\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(texts), prepend=":")
    assert score.find_sclite() == str(fake)
    program(score.main, "--ref", texts / "text", "--hyp", texts / "hyp", "--out", texts / "out")
    result = json.loads((texts / "out" / "wer.json").read_text())["sclite"]
    assert result["errors"] == 4 and result["tokens"] == 9 and result["deletions"] == 2
    fake.write_text("#!/bin/sh\nexit 1\n")
    program(score.main, "--ref", texts / "text", "--hyp", texts / "hyp", "--out", texts / "out")
    assert json.loads((texts / "out" / "wer.json").read_text())["sclite"] is None


@pytest.mark.skipif(score.find_sclite() is None, reason="sclite is not installed")
def test_the_real_sclite_agrees(tmp_path):
    random = np.random.default_rng(1)
    pairs = {f"spk-{n}": random_pair(random) for n in range(50)}
    rows = score.count({u: r for u, (r, _) in pairs.items()}, {u: h for u, (_, h) in pairs.items()})
    score.write_trn(tmp_path / "ref.trn", {row.utterance: row.reference for row in rows})
    score.write_trn(tmp_path / "hyp.trn", {row.utterance: row.hypothesis for row in rows})
    result = score.sclite(score.find_sclite(), tmp_path / "ref.trn", tmp_path / "hyp.trn")
    assert result["tokens"] == sum(len(row.reference) for row in rows)
    least = sum(row.errors for row in rows)
    assert least <= result["errors"] <= 1.1 * least


@pytest.mark.parametrize(
    ("reference", "hypothesis", "said"),
    [
        ("u1 A\nu2\n", "u1 A\n", "text:2: utterance u2 has an empty transcript"),
        ("u1 A\n", "u7 A\n", "same set"),
        ("u1 A\n", "u1 A\nu1 B\n", "hyp:2.*twice"),
        ("u1 A\n", None, "does not exist"),
    ],
)
def test_bad_input_is_one_line(program, tmp_path, reference, hypothesis, said):
    import re

    (tmp_path / "text").write_text(reference)
    if hypothesis is not None:
        (tmp_path / "hyp").write_text(hypothesis)
    arguments = ["--ref", tmp_path / "text", "--hyp", tmp_path / "hyp", "--out", tmp_path / "out"]
    status, _, err = program(score.main, *arguments)
    assert status == 2 and re.search(said, err) and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
