from __future__ import annotations

import numpy as np
import pytest

from dirnet.asr import g2p, lexicon
from dirnet.errors import UserError

PLAIN = {
    "a": "AE",
    "e": "EH",
    "i": "IH",
    "o": "AA",
    "b": "B",
    "d": "D",
    "f": "F",
    "l": "L",
    "m": "M",
    "n": "N",
    "t": "T",
}


def spell(word: str) -> tuple[str, ...]:
    """A regular orthography: sh is one phone, x two, c depends on what follows, final e is silent."""
    phones, i = [], 0
    while i < len(word):
        if word[i : i + 2] == "sh":
            phones.append("SH")
            i += 1
        elif word[i] == "x":
            phones += ["K", "S"]
        elif word[i] == "c":
            phones.append("S" if word[i + 1 : i + 2] in ("e", "i") else "K")
        elif not (word[i] == "e" and i == len(word) - 1):
            phones.append(PLAIN[word[i]])
        i += 1
    return tuple(phones)


def regular_words(number: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    onsets, vowels, codas = ["b", "d", "f", "l", "m", "n", "t", "sh", "c", "x"], "aeio", ["", "n", "t", "m", "xe", "ce"]
    return [
        "".join(random.choice(onsets) + random.choice(list(vowels)) for _ in range(random.integers(1, 4)))
        + random.choice(codas)
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def regular():
    return g2p.train({word: [spell(word)] for word in regular_words(1500, 0)})


def test_rules_of_a_regular_orthography_are_learnt(regular):
    words = regular_words(200, 1)
    found = regular.pronounce(words)
    right = sum(phones == spell(word) for word, phones in zip(words, found, strict=True))
    assert right >= 196


def test_alignment_is_monotone_complete_and_sensible():
    words = [(word, spell(word)) for word in regular_words(800, 2)]
    aligned = g2p.align(words)
    assert len(aligned) == len(words)
    for pairs in aligned:
        word = "".join(letter for letter, _ in pairs)
        assert tuple(phone for _, phones in pairs for phone in phones) == spell(word)
        for letter, phones in pairs:
            assert letter != "x" or phones == ("K", "S")
            assert letter not in "bdflmnt" or phones == (PLAIN[letter],)


def test_best_pronunciation_is_the_most_probable_of_all(regular):
    """Beam search against scoring every sequence of pairs of short words."""
    import itertools

    for word in ("ce", "ca", "oxe", "she"):
        options = [regular.candidates[letter] for letter in word]
        scores = {}
        for units in itertools.product(*options):
            state, total = np.array([regular.model.start]), 0.0
            for unit in (*units, 1):
                log_prob, state = regular.model.advance(state, np.array([unit]))
                total += log_prob[0]
            scores[units] = total
        best = max(scores, key=scores.get)
        assert regular.pronounce([word])[0] == tuple(p for unit in best for p in regular.pairs[unit])


def test_letters_it_does_not_know(regular):
    assert regular.pronounce(["Té-tà", "1990", ""]) == [spell("teta"), (), ()]


def test_words_decoded_together_or_alone_come_out_the_same(regular):
    words = regular_words(40, 3)
    assert regular.pronounce(words) == [regular.pronounce([word])[0] for word in words]


def test_nothing_to_learn_from():
    with pytest.raises(UserError, match="no word to learn"):
        g2p.train({"a": [("AE",) * 5]})


def test_error_rate_on_held_out_words_of_the_cmu_dictionary(edits):
    dictionary = lexicon.cmu_dictionary()
    words = sorted(word for word in dictionary if word.isalpha())
    held_out = [words[n] for n in np.random.default_rng(0).choice(len(words), 500, replace=False)]
    hidden = set(held_out)
    model = g2p.train({word: dictionary[word] for word in words[::4] if word not in hidden})
    errors = total = 0
    for word, phones in zip(held_out, model.pronounce(held_out), strict=True):
        distances = {variant: edits(variant, phones) for variant in dictionary[word]}
        nearest = min(distances, key=distances.get)
        errors += distances[nearest]
        total += len(nearest)
    assert errors / total < 0.11  # trained on all words: 6.6 %
