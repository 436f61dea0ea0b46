"""Pronunciations of unknown words: a joint-sequence letter-to-phone model, trained in seconds on a lexicon.

Every letter stands for zero, one or two phones. Which, is found by EM over all alignments of the lexicon; an n-gram
model over the (letter, phones) pairs then finds the most probable pairs for the letters of a new word
(Bisani & Ney 2008, with one-letter units).
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dirnet.asr import ngram
from dirnet.errors import UserError
from dirnet.progress import progress

ORDER = 6  # of the n-gram over pairs
EM_PASSES = 6
EM_WORDS = 30_000  # of a large lexicon, evenly spread; the alignment learns nothing more from the rest
BEAM = 12  # hypotheses a word keeps after each letter
RARE = 2  # a (letter, phones) pair must explain more words than this, in a lexicon of a thousand words or more
BATCH = 512  # words decoded together


@dataclass(frozen=True)
class G2P:
    """A trained model: the n-gram over pairs, and for each letter the pairs that may stand for it.

    pairs: unit id in `model` -> its phones; candidates: letter -> unit ids (n,) int64.
    """

    model: ngram.NgramModel
    pairs: dict[int, tuple[str, ...]]
    candidates: dict[str, np.ndarray]

    def pronounce(self, words: Sequence[str]) -> list[tuple[str, ...]]:
        """The most probable phones of each word; an empty tuple where no letter is known (digits, foreign script)."""
        spelled = [[letter for letter in letters(word) if letter in self.candidates] for word in words]
        found: list[tuple[str, ...]] = [()] * len(words)
        todo = sorted((n for n in range(len(words)) if spelled[n]), key=lambda n: len(spelled[n]))
        starts = range(0, len(todo), BATCH)
        for first in progress(starts, len(starts), "pronunciations", f"x {BATCH} words"):
            batch = todo[first : first + BATCH]
            for n, phones in zip(batch, self._decode([spelled[n] for n in batch]), strict=True):
                found[n] = phones
        return found

    def _decode(self, spelled: list[list[str]]) -> list[tuple[str, ...]]:
        """Beam search over all words at once: flat arrays of hypotheses, each with its word, state and score."""
        word = np.arange(len(spelled))
        state = np.full(len(spelled), self.model.start)
        score = np.zeros(len(spelled))
        units: list[np.ndarray] = []  # per letter: the unit and the hypothesis before it
        before: list[np.ndarray] = []
        best: list[tuple[str, ...]] = [()] * len(spelled)
        longest = max(map(len, spelled))
        for position in range(longest + 1):
            over = np.array([len(spelled[w]) == position for w in word])
            if over.any():
                self._finish(np.flatnonzero(over), word, state, score, units, before, best)
            if position == longest:
                break
            options = [
                () if done else self.candidates[spelled[w][position]] for w, done in zip(word, over, strict=True)
            ]
            origin = np.repeat(np.arange(len(word)), [len(o) for o in options])
            unit = np.concatenate([o for o in options if len(o)])
            gained, following = self.model.advance(state[origin], unit)
            total = score[origin] + gained
            kept = _best_per_group(word[origin], total, BEAM)
            units.append(unit[kept])
            before.append(origin[kept])
            word, state, score = word[origin[kept]], following[kept], total[kept]
        return best

    def _finish(self, rows, word, state, score, units, before, best) -> None:
        """Add the end of the word to the hypotheses `rows` and trace the best of each word back."""
        total = score[rows] + self.model.advance(state[rows], np.full(len(rows), 1))[0]
        for row in rows[_best_per_group(word[rows], total, 1)]:
            path, at = [], row
            for unit, origin in zip(reversed(units), reversed(before), strict=True):
                path.append(int(unit[at]))
                at = origin[at]
            best[word[row]] = tuple(phone for unit in reversed(path) for phone in self.pairs[unit])


def _best_per_group(group: np.ndarray, score: np.ndarray, keep: int) -> np.ndarray:
    """Indices of the `keep` highest scores of each group."""
    order = np.lexsort((-score, group))
    sorted_group = group[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_group, sorted_group)
    return order[rank < keep]


def letters(word: str) -> str:
    """`word` in lower case, accents removed: what the model reads."""
    return "".join(c for c in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(c))


def train(lexicon: Mapping[str, Sequence[tuple[str, ...]]]) -> G2P:
    """Train on every pronunciation of `lexicon` (word -> pronunciations) that the alignment can explain."""
    aligned = align([(letters(word), phones) for word, variants in lexicon.items() for phones in variants])
    counts = Counter(pair for pairs in aligned for pair in pairs)
    least = RARE if len(aligned) >= 1000 else 0
    sentences = [[_name(pair) for pair in pairs] for pairs in aligned if all(counts[pair] > least for pair in pairs)]
    if not sentences:
        raise UserError("no word to learn pronunciations from; give a lexicon with more words")
    model = ngram.estimate(sentences, ORDER)
    pairs, candidates = {}, defaultdict(list)
    for unit, name in enumerate(model.words):
        if name not in ngram.SPECIAL:
            letter, _, phones = name.partition(" ")
            pairs[unit] = tuple(phones.split())
            candidates[letter].append(unit)
    return G2P(model, pairs, {letter: np.array(units) for letter, units in candidates.items()})


@functools.cache
def _name(pair: tuple[str, tuple[str, ...]]) -> str:
    return " ".join((pair[0], *pair[1]))


def align(words: Sequence[tuple[str, tuple[str, ...]]]) -> list[list[tuple[str, tuple[str, ...]]]]:
    """The most probable (letter, phones) pairs of each (spelling, phones); words that cannot be aligned are left out.

    EM over all monotone alignments of 0, 1 or 2 phones to a letter, all words of one length at a time.
    """
    words = [(spelling, phones) for spelling, phones in words if 0 < len(phones) <= 2 * len(spelling)]
    if not words:
        return []
    alphabet = {letter: n for n, letter in enumerate(sorted({c for spelling, _ in words for c in spelling}))}
    inventory = {phone: n + 1 for n, phone in enumerate(sorted({p for _, phones in words for p in phones}))}
    size = (len(alphabet), len(inventory) + 1)
    tables = [np.ones(size[0]), np.ones(size), np.full((*size, size[1]), 0.1)]  # P(no, one, two phones | letter)
    sample = _groups(words[:: len(words) // EM_WORDS + 1], alphabet, inventory)
    for _ in range(EM_PASSES):
        counts = [np.full_like(table, 1e-6) for table in tables]  # not zero: the sample lacks rare pairs
        for group in sample:
            group.expect(tables, counts)
        total = sum(count.reshape(size[0], -1).sum(1) for count in counts)
        tables = [count / total.reshape(-1, *[1] * (count.ndim - 1)) for count in counts]
    return [pairs for group in _groups(words, alphabet, inventory) for pairs in group.best(tables)]


def _groups(words, alphabet, inventory) -> list[_Group]:
    by_length = defaultdict(list)
    for spelling, phones in words:
        by_length[len(spelling)].append((spelling, phones))
    return [_Group(members, alphabet, inventory) for members in by_length.values()]


class _Group:
    """Words of one spelling length: letters (n, L) and phones (n, P), padded with 0 on the right."""

    def __init__(self, words, alphabet, inventory):
        self.words = words
        self.letters = np.array([[alphabet[c] for c in spelling] for spelling, _ in words])
        self.lengths = np.array([len(phones) for _, phones in words])
        self.phones = np.zeros((len(words), self.lengths.max()), np.int64)
        for row, (_, phones) in zip(self.phones, words, strict=True):
            row[: len(phones)] = [inventory[phone] for phone in phones]

    def _emissions(self, tables, position: int) -> list[np.ndarray]:
        """P(k phones ending before j | letter at `position`): three arrays (n, P + 1 - k) for k = 0, 1, 2."""
        letter, phones = self.letters[:, position, None], self.phones
        none = np.broadcast_to(tables[0][letter], (len(phones), phones.shape[1] + 1))
        return [none, tables[1][letter, phones], tables[2][letter, phones[:, :-1], phones[:, 1:]]]

    def expect(self, tables, counts) -> None:
        """Add the expected counts of all alignments (forward-backward in probabilities: words are short)."""
        rows, width, last = len(self.phones), self.phones.shape[1] + 1, self.letters.shape[1]
        emissions = [self._emissions(tables, position) for position in range(last)]
        forward = np.zeros((last + 1, rows, width))
        backward = np.zeros_like(forward)
        forward[0, :, 0] = 1
        backward[last, np.arange(rows), self.lengths] = 1
        for i in range(last):
            for k, emission in enumerate(emissions[i]):
                forward[i + 1, :, k:] += forward[i, :, : width - k] * emission
        for i in reversed(range(last)):
            for k, emission in enumerate(emissions[i]):
                backward[i, :, : width - k] += emission * backward[i + 1, :, k:]
        likelihood = backward[0, :, :1]
        scale = np.divide(1, likelihood, out=np.zeros_like(likelihood), where=likelihood > 0)
        for i in range(last):
            letter = self.letters[:, i, None]
            keys = [letter, (letter, self.phones), (letter, self.phones[:, :-1], self.phones[:, 1:])]
            for k, emission in enumerate(emissions[i]):
                posterior = forward[i, :, : width - k] * emission * backward[i + 1, :, k:] * scale
                if k == 0:
                    counts[0] += np.bincount(letter[:, 0], posterior.sum(1), len(counts[0]))
                else:
                    flat = np.ravel_multi_index(np.broadcast_arrays(*keys[k]), counts[k].shape)
                    counts[k] += np.bincount(flat.ravel(), posterior.ravel(), counts[k].size).reshape(counts[k].shape)

    def best(self, tables) -> list[list[tuple[str, tuple[str, ...]]]]:
        """Viterbi alignments of the words that have one."""
        rows, width, last = len(self.phones), self.phones.shape[1] + 1, self.letters.shape[1]
        score = np.zeros((rows, width))
        score[:, 0] = 1
        moves = np.zeros((last, rows, width), np.int8)
        for i in range(last):
            options = np.zeros((3, rows, width))
            for k, emission in enumerate(self._emissions(tables, i)):
                options[k, :, k:] = score[:, : width - k] * emission
            moves[i], score = options.argmax(0), options.max(0)
        found = []
        for row in np.flatnonzero(score[np.arange(rows), self.lengths] > 0):
            spelling, phones = self.words[row]
            pairs, j = [], len(phones)
            for i in reversed(range(last)):
                k = moves[i, row, j]
                pairs.append((spelling[i], phones[j - k : j]))
                j -= k
            found.append(pairs[::-1])
        return found
