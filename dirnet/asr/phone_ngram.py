"""Phone n-grams for the denominator of sMBR, counted through the lexicon with pronunciation variants and silence.

A context is a tuple of up to `order - 1` phones, or of the sentence boundary and fewer. Interpolated Witten-Bell (Chen
& Goodman 1998, Eq. 15): with c the count of a context h and k the number of kinds that followed it,

    P(w | h) = c(h w) / (c + k) + k / (c + k) P(w | h without its first phone)
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from dirnet.errors import UserError
from dirnet.files import atomic_write

Context = tuple[int, ...]
Lattice = Sequence[Sequence[tuple[float, Sequence[int]]]]  # places in a row; each has (probability, phones) to choose
SILENCE_PROBABILITY = 0.5  # of an optional silence, as in Kaldi's prepare_lang.sh; the other half is none


@dataclass(frozen=True)
class PhoneNgram:
    """A phone n-gram as an automaton, small by its back-off: a context holds what was seen there and a way out.

    phones: their number V; phone v < V is output v + 1 of the network, and V stands for the sentence's start and end.
    contexts (N, order - 1) int32: phones of each context, oldest first, -1 in front of short ones. The first V + 1 are
        the single phones and the start; those have all successors.
    backoff (N,): probability of leaving a context for `shorter` (N,), where its first phone is forgotten.
    arc_from, arc_phone, arc_to (M,) and arc_weight (M,): successors; an end has no `arc_to`: -1.
    """

    phones: int
    contexts: np.ndarray
    backoff: np.ndarray
    shorter: np.ndarray
    arc_from: np.ndarray
    arc_phone: np.ndarray
    arc_to: np.ndarray
    arc_weight: np.ndarray

    @classmethod
    def uniform(cls, phones: int) -> PhoneNgram:
        """Every phone and the end equally likely everywhere."""
        return cls.estimate([], phones)

    @classmethod
    def estimate(cls, lattices: Iterable[Lattice], phones: int, order: int = 2, max_contexts: int = 2000) -> PhoneNgram:
        """Expected counts over the paths of `lattices`, whose phones are 0 .. `phones` - 1.

        order: 2 or more. max_contexts: of two phones and more; the most frequent ones are kept.
        """
        if order < 2:
            raise UserError(f"smbr_order is {order}, expected 2 or more")
        counts = count(lattices, phones, order)
        long = sorted((h for h in counts if len(h) > 1), key=lambda h: (-sum(counts[h].values()), h))[:max_contexts]
        kept = {h[cut:] for h in long for cut in range(len(h) - 1)}  # a context without its shorter ones leads nowhere
        names = [*((v,) for v in range(phones + 1)), *sorted(kept, key=lambda h: (len(h), h))]
        names = [h for h in names if len(h) == 1 or h in counts]
        place = {h: number for number, h in enumerate(names)}
        dense = _bigram(counts, phones)
        backoff, shorter, arcs = np.zeros(len(names)), np.arange(len(names)), []
        for h, number in place.items():
            if len(h) == 1:
                found = enumerate(dense[h[0]])
            else:
                total, kinds = sum(counts[h].values()), len(counts[h])
                backoff[number], shorter[number] = kinds / (total + kinds), place[h[1:]]
                found = ((w, c / (total + kinds)) for w, c in sorted(counts[h].items()))
            arcs += [(number, w, -1 if w == phones else _longest((*h, w), order, place), p) for w, p in found]
        padded = np.full((len(names), order - 1), -1, np.int32)
        for number, h in enumerate(names):
            padded[number, order - 1 - len(h) :] = h
        source, phone, target, weight = zip(*arcs, strict=True)
        return cls(
            phones, padded, backoff, shorter.astype(np.int32), np.array(source, np.int32), np.array(phone, np.int32),
            np.array(target, np.int32), np.array(weight),
        )  # fmt: skip

    @property
    def order(self) -> int:
        """2 for a bigram."""
        return self.contexts.shape[1] + 1

    @property
    def last(self) -> np.ndarray:
        """The phone that each context ends in (N,); V for the start."""
        return self.contexts[:, -1]

    def probability(self, sequence: Sequence[int]) -> float:
        """The probability of a whole sentence of phones, its end included: the sum over all ways of backing off."""
        mass = np.zeros(len(self.contexts))
        mass[self.phones] = 1.0  # the start
        long_first = np.argsort(-(self.contexts >= 0).sum(1), kind="stable")
        for phone in [*sequence, self.phones]:
            for number in long_first:
                if self.backoff[number]:
                    mass[self.shorter[number]] += mass[number] * self.backoff[number]
            here = self.arc_phone == phone
            weight = mass[self.arc_from[here]] * self.arc_weight[here]
            mass = np.bincount(self.arc_to[here] + 1, weight, len(self.contexts) + 1)[1:]
        return float(weight.sum())

    def equals(self, other: PhoneNgram) -> bool:
        """Whether both give every sequence the same probability, but for rounding, and are built in the same way."""
        ours, theirs = ([np.asarray(getattr(one, field.name)) for field in fields(one)] for one in (self, other))
        pairs = zip(ours, theirs, strict=True)
        return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=0) for a, b in pairs)

    def save(self, path: str | Path) -> None:
        """Write the arrays as an .npz file."""
        with atomic_write(path, "wb") as stream:
            np.savez_compressed(stream, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> PhoneNgram:
        """Read what `save` wrote."""
        try:
            with np.load(path) as arrays:
                values = {field.name: arrays[field.name] for field in fields(cls)}
        except FileNotFoundError:
            raise UserError(f"phone n-gram {path} does not exist; run sMBR training from its first stage") from None
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"phone n-gram {path} is damaged ({error}); delete it and run again") from None
        return cls(**{**values, "phones": int(values["phones"])})


def lattice(
    words: Sequence[str],
    pronounce: Callable[[str], Sequence[Sequence[str]]],
    place: Mapping[str, int],
    silence: str | None = None,
    between: bool = False,
) -> Lattice:
    """What may be said for `words`: every pronunciation of a word alike.

    place: phone -> number; a phone outside is a `UserError`. silence: the phone that may, with probability 1/2, come at
    both ends and, if `between`, after every word.
    """

    def choices(variants: Sequence[Sequence[str]], weight: float, word: str) -> list[tuple[float, list[int]]]:
        strange = next((phone for variant in variants for phone in variant if phone not in place), None)
        if strange is not None:
            raise UserError(f"pronunciation of {word!r} has {strange!r}, not in the token list; make the lexicon again")
        return [(weight, [place[phone] for phone in variant]) for variant in variants]

    pause = [choices([[silence], []], SILENCE_PROBABILITY, "silence")] if silence else []
    steps = [*pause]
    for number, word in enumerate(words):
        variants = pronounce(word)
        steps.append(choices(variants, 1 / len(variants), word))
        if between or number == len(words) - 1:
            steps += pause
    return steps


def count(lattices: Iterable[Lattice], phones: int, order: int) -> dict[Context, Counter]:
    """Expected successors of every context of 0 to order - 1 phones, over all paths of the lattices."""
    counts: dict[Context, Counter] = defaultdict(Counter)

    def see(context: Context, phone: int, weight: float) -> Context:
        for cut in range(len(context) + 1):
            counts[context[cut:]][phone] += weight
        return (*context, phone)[-(order - 1) :]

    for places in lattices:
        reached = {(phones,): 1.0}  # what is known of the past -> its probability
        for choices in places:
            after: dict[Context, float] = defaultdict(float)
            for context, mass in reached.items():
                for probability, said in choices:
                    now, weight = context, mass * probability
                    for phone in said:
                        now = see(now, phone, weight)
                    after[now] += weight
            reached = after
        for context, mass in reached.items():
            see(context, phones, mass)
    return counts


def _bigram(counts: Mapping[Context, Counter], phones: int) -> np.ndarray:
    """P(column | row) over V + 1; every unigram has at least one count, so that no succession is impossible."""
    table = np.zeros((phones + 1, phones + 1))
    for row in range(phones + 1):
        for column, number in counts.get((row,), {}).items():
            table[row, column] = number
    follows = table.sum(axis=0) + 1.0
    kinds = np.maximum((table > 0).sum(axis=1, keepdims=True), 1)
    return (table + kinds * follows / follows.sum()) / (table.sum(axis=1, keepdims=True) + kinds)


def _longest(history: Context, order: int, place: Mapping[Context, int]) -> int:
    """The longest end of `history` that is a context."""
    ends = (history[cut:] for cut in range(max(len(history) - order + 1, 0), len(history)))
    return next(place[end] for end in ends if end in place)
