"""Phone n-grams: counts by listing all paths, probabilities by the formula, distributions that sum to one."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from dirnet.asr.phone_ngram import PhoneNgram, count, lattice
from dirnet.errors import UserError

PLACE = {"A": 0, "B": 1, "C": 2, "SIL": 3}
LEXICON = {"ab": [("A", "B"), ("A", "C", "B")], "c": [("C",)], "ca": [("C", "A")]}
TEXTS = [["ab", "c"], ["ca"], ["c", "ab", "ab"], ["ca", "c"]]
LATTICES = [lattice(words, LEXICON.get, PLACE, "SIL", between=True) for words in TEXTS]


def paths(choices):
    """Every (probability, phones) of a lattice."""
    for chosen in itertools.product(*choices):
        yield np.prod([weight for weight, _ in chosen]), [phone for _, said in chosen for phone in said]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_counts_are_expectations_over_all_paths(order):
    wanted = {}
    for choices in LATTICES:
        for weight, said in paths(choices):
            whole = (4, *said, 4)
            for end in range(1, len(whole)):
                for length in range(order):
                    if length <= end:
                        wanted.setdefault(whole[end - length : end], Counter())[whole[end]] += weight
    found = count(LATTICES, 4, order)
    assert found.keys() == wanted.keys()
    for context, following in wanted.items():
        assert dict(found[context]) == pytest.approx(dict(following))


def test_a_trigram_is_witten_bell():
    counts, model = count(LATTICES, 4, 3), PhoneNgram.estimate(LATTICES, 4, 3)
    follows = np.array([sum(following[v] for h, following in counts.items() if len(h) == 1) for v in range(5)])

    def probability(history, phone):
        if not history:
            return (follows[phone] + 1) / (follows + 1).sum()
        following = counts.get(history)
        if not following:
            return probability(history[1:], phone)
        return (following[phone] + len(following) * probability(history[1:], phone)) / (
            sum(following.values()) + len(following)
        )

    for said in ([], [0], [3, 0, 1], [2, 0, 2, 2, 1], [1, 1, 3]):
        whole = [4, *said, 4]
        wanted = np.prod([probability(tuple(whole[max(end - 2, 0) : end]), whole[end]) for end in range(1, len(whole))])
        assert model.probability(said) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("order, most", [(2, 10), (3, 10), (4, 100), (4, 3)])
def test_it_is_a_distribution_of_the_asked_size(order, most):
    model = PhoneNgram.estimate(LATTICES, 4, order, most)
    leaving = np.bincount(model.arc_from, model.arc_weight) + model.backoff
    assert leaving == pytest.approx(np.ones(len(model.contexts)))
    assert len(model.contexts) <= 5 + 2 * most
    short = sum(model.probability(said) for n in range(7) for said in itertools.product(range(4), repeat=n))
    assert 0.3 < short < 1


def test_uniform():
    model = PhoneNgram.uniform(3)
    assert model.probability([]) == pytest.approx(1 / 4) and model.probability([0, 0]) == pytest.approx(1 / 64)


def test_silence_is_optional_where_asked():
    assert {tuple(said) for _, said in paths(lattice(["c", "ca"], LEXICON.get, PLACE))} == {(2, 2, 0)}
    ends = {tuple(said) for _, said in paths(lattice(["c", "ca"], LEXICON.get, PLACE, "SIL"))}
    assert ends == {(2, 2, 0), (3, 2, 2, 0), (2, 2, 0, 3), (3, 2, 2, 0, 3)}
    assert len(list(paths(lattice(["c", "ca"], LEXICON.get, PLACE, "SIL", between=True)))) == 8


def test_storage_and_mistakes(tmp_path):
    model = PhoneNgram.estimate(LATTICES, 4, 3)
    model.save(tmp_path / "ngram.npz")
    assert PhoneNgram.load(tmp_path / "ngram.npz").probability([0, 1]) == model.probability([0, 1])
    with pytest.raises(UserError, match="does not exist"):
        PhoneNgram.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", start=np.zeros(3))
    whole = (tmp_path / "ngram.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-40])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "changed.npz").write_bytes(whole[:150] + bytes(30) + whole[180:])
    for name in ("other", "cut", "empty", "changed"):
        with pytest.raises(UserError, match="damaged"):
            PhoneNgram.load(tmp_path / f"{name}.npz")
    with pytest.raises(UserError, match="pronunciation of 'x' has 'X', not in the token list"):
        lattice(["x"], {"x": [["X"]]}.get, PLACE)
    with pytest.raises(UserError, match="smbr_order is 1"):
        PhoneNgram.estimate(LATTICES, 4, 1)
