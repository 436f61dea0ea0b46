"""Graphs are tested by what they accept: known words, spoken as perfect posteriors, must come back exactly."""

from __future__ import annotations

import gzip
import itertools
import math

import kaldifst
import numpy as np
import pytest

from dirnet.asr import graph, lexicon, ngram
from dirnet.asr.decode import DecodeConfig, Decoder
from dirnet.errors import UserError

# one word is the start of another, two sound the same, one has two pronunciations, doubled phones meet at borders
LEXICON = """TWO T UW
TOO T UW
TOOTH T UW TH
READ R EH D
READ R IY D
RED R EH D
DAD D AE D
A AH
UH AH
BUTTER B AH T ER
BUT B AH T
"""
SENTENCES = """TWO TEETH
A TOOTH TOO
READ A RED TOOTH
DAD READ A TOOTH
TWO BUT TOO
BUTTER A TOOTH
BUT A RED DAD READ TOO
"""


@pytest.fixture
def lang(tmp_path, program):
    """Make a lang folder with its graph: `lang(silence) -> folder`."""

    def make(silence="none", order="2", *more):
        for name, content in {"text": "", "lexicon": LEXICON + "TEETH T IY TH\n", "sentences": SENTENCES}.items():
            (tmp_path / name).write_text(content)
        (tmp_path / "set").mkdir(exist_ok=True)
        lines = [f"u{n} {line}\n" for n, line in enumerate(SENTENCES.splitlines())]
        (tmp_path / "set" / "text").write_text("".join(lines))
        folder = tmp_path / "lang"
        arguments = ["--data", tmp_path, "--sets", "set", "--lang", folder, "--lexicon", tmp_path / "lexicon"]
        assert program(lexicon.main, *arguments, "--silence", silence, *more)[0] == 0
        arguments = ["--lm_text", tmp_path / "sentences", "--order", order, "--vocab", tmp_path / "lexicon"]
        assert program(ngram.main, *arguments, "--out", folder / "lm.arpa")[0] == 0
        status, out, err = program(graph.main, "--lang", folder, "--arpa", folder / "lm.arpa")
        assert status == 0, err
        return folder

    return make


def spoken(phones, random, outputs=lexicon.OUTPUTS, certainty=12.0):
    """Log-posteriors (T, outputs) of `phones` with blanks and repeats at random, blanks wherever CTC needs one."""
    frames, before = [0] * random.integers(3), None
    for phone in phones:
        if phone == before or random.random() < 0.5:
            frames += [0] * random.integers(1, 3)
        frames += [outputs.index(phone)] * random.integers(1, 4)
        before = phone
    frames += [0] * random.integers(3)
    scores = random.normal(size=(len(frames), len(outputs)))
    scores[np.arange(len(frames)), frames] += certainty
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def heard(folder, words, silence, random):
    """The set of word sequences that sound like `words`, and posteriors of one way to say it."""
    entries = lexicon.read_lexicon(folder / "lexicon.txt")
    phones = [lexicon.SIL] * (silence and random.integers(2))
    for word in words:
        phones += entries[word][random.integers(len(entries[word]))]
        phones += [lexicon.SIL] * (silence and random.integers(2))
    return spoken(phones, random)


@pytest.mark.parametrize("silence", ["none", "words"])
def test_perfect_posteriors_give_back_the_words(lang, silence):
    """Random word sequences, not only likely ones; homophones are compared by sound."""
    folder, random = lang(silence), np.random.default_rng(0)
    decoder = Decoder(folder, DecodeConfig(beam=40, acoustic_scale=4.0))
    sound = {"TOO": "TWO", "UH": "A"}
    vocabulary = sorted(set(lexicon.read_lexicon(folder / "lexicon.txt")) - {"READ", "RED"})
    for _ in range(60):
        words = [str(w) for w in random.choice(vocabulary, random.integers(1, 8))]
        found, _ = decoder.decode(heard(folder, words, silence == "words", random))
        plain = [sound.get(w, w) for w in words]
        # BUT A.. and BUTTER differ by phones, TWO TH.. cannot be confused: only the homophones may change
        assert [sound.get(w, w) for w in found] == plain


@pytest.mark.parametrize("kind", [("char",), ("word",), ("bpe", "--bpe_size", "24")])
def test_perfect_posteriors_of_other_tokens_give_back_the_words(lang, kind):
    """Unlikely word sequences too: nothing but the tokens tells them apart, in characters with spaces or without."""
    folder, random = lang("none", "2", "--token_type", *kind), np.random.default_rng(0)
    outputs, entries = lexicon.outputs_of(folder), lexicon.read_spellings(folder)
    decoder = Decoder(folder, DecodeConfig(beam=40, acoustic_scale=4.0))
    for number in range(40):
        words = [str(word) for word in random.choice(sorted(entries), random.integers(1, 8))]
        said = [token for word in words for token in [*entries[word][0], *["<space>"] * (kind == ("char",))]]
        found, _ = decoder.decode(spoken(said[: len(said) - (kind == ("char",) and number % 2)], random, outputs))
        assert found == words
    with pytest.raises(UserError, match=f"expected \\(frames, {len(outputs)}\\)"):
        decoder.decode(np.zeros((5, len(outputs) + 1), np.float32))


def test_the_language_model_tells_homophones_apart(lang):
    folder, random = lang(), np.random.default_rng(1)
    decoder = Decoder(folder)
    for sentence in SENTENCES.splitlines():
        assert decoder.decode(heard(folder, sentence.split(), False, random))[0] == sentence.split()


def test_score_is_language_model_plus_acoustics(lang):
    """A sentence without homophones: one alignment is far better than all others, so its cost is known."""
    folder, random = lang(), np.random.default_rng(2)
    model = ngram.estimate([s.split() for s in SENTENCES.splitlines()], 2, lexicon.read_lexicon(folder / "lexicon.txt"))
    log_probs = heard(folder, ["DAD", "BUTTER", "TOOTH", "DAD"], False, random)
    words, score = Decoder(folder, DecodeConfig(beam=40)).decode(log_probs)
    assert words == ["DAD", "BUTTER", "TOOTH", "DAD"]
    state, expected = np.array([model.start]), log_probs.max(1).sum()
    for word in (*words, "</s>"):
        log_prob, state = model.advance(state, np.array([model.words.index(word)]))
        expected += log_prob[0] * math.log(10)
    assert score == pytest.approx(expected, abs=0.02)


def test_topology_is_the_ctc_collapse():
    """Every output sequence of length four over three tokens maps to its collapse, and to nothing else."""
    topology = graph.topology(42, 0)
    kaldifst.arcsort(topology, "ilabel")
    for tokens in itertools.product(range(3), repeat=4):
        line = kaldifst.make_linear_acceptor([token + 1 for token in tokens])
        mapped = kaldifst.StdVectorFst(kaldifst.compose(line, topology))
        linear, _, found, cost = kaldifst.get_linear_symbol_sequence(mapped)
        collapsed = [token + 1 for token, _ in itertools.groupby(tokens) if token != 0]
        assert linear and found == collapsed and cost.value == 0


def test_disambiguation_symbols():
    a, ab = ("A",), ("A", "B")
    assert graph.disambiguate([ab]) == ([0], 0)
    assert graph.disambiguate([a, ab]) == ([1, 0], 1)
    assert graph.disambiguate([ab, ab, a]) == ([1, 2, 1], 2)


def test_words_without_pronunciation_are_left_out(lang, program):
    folder = lang()
    arpa = (folder / "lm.arpa").read_text().replace("DAD", "FATHER")
    (folder / "other.arpa").write_text(arpa)
    status, out, _ = program(graph.main, "--lang", folder, "--arpa", folder / "other.arpa")
    assert status == 0 and "1 of" in out  # FATHER; <unk> is no word that anyone could say
    random = np.random.default_rng(3)
    assert "DAD" not in Decoder(folder).decode(heard(folder, ["DAD", "READ"], False, random))[0]


def test_bad_input_is_one_line_and_keeps_the_old_graph(lang, program):
    folder = lang()
    before = (folder / "TLG.fst").read_bytes()
    whole = (folder / "lm.arpa").read_text()
    bad = {
        "cut.arpa": (whole[: whole.index("\\2-grams")] + "\\2-grams:\n", "no whole ARPA"),
        "letters.arpa": (whole.replace("\\1-grams:\n-", "\\1-grams:\nx"), "invalid n-gram logprob"),
        "case.arpa": (whole.lower().replace("<unk>", "oops"), "same letter case"),
        "none.arpa": (None, "does not exist"),
    }
    for name, (content, said) in bad.items():
        if content is not None:
            (folder / name).write_text(content)
        status, _, err = program(graph.main, "--lang", folder, "--arpa", folder / name)
        assert status == 2 and said in err and err.count("\n") == 1, err
    packed = gzip.compress(whole.encode())
    (folder / "cut.arpa.gz").write_bytes(packed[:-30])  # behind the unigrams
    status, _, err = program(graph.main, "--lang", folder, "--arpa", folder / "cut.arpa.gz")
    assert status == 2 and "cut.arpa.gz is not a whole gzip file" in err and err.count("\n") == 1
    (folder / "lang.json").unlink()
    status, _, err = program(graph.main, "--lang", folder, "--arpa", folder / "lm.arpa")
    assert status == 2 and "lang.json is missing" in err
    assert (folder / "TLG.fst").read_bytes() == before


def test_packed_models_and_carriage_returns_make_the_same_graph(lang, program):
    folder = lang()
    before, whole = (folder / "TLG.fst").read_bytes(), (folder / "lm.arpa").read_bytes()
    (folder / "windows.arpa").write_bytes(whole.replace(b"\n", b"\r\n"))
    (folder / "packed.arpa.gz").write_bytes(gzip.compress(whole))
    (folder / "both.arpa.gz").write_bytes(gzip.compress(whole.replace(b"\n", b"\r\n")))
    for name in ("windows.arpa", "packed.arpa.gz", "both.arpa.gz"):
        (folder / "TLG.fst").unlink()
        status, _, err = program(graph.main, "--lang", folder, "--arpa", folder / name)
        assert status == 0 and (folder / "TLG.fst").read_bytes() == before, err
