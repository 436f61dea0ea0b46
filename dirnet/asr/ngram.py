"""N-gram language models estimated offline: interpolated Kneser-Ney or Witten-Bell, written as standard ARPA.

All n-grams sit in one trie of numpy arrays, numbered level by level: node 0 is the empty history, node 1 + w the
unigram of word w, and the children of every node lie in increasing order of `parent * vocabulary + word`, so that the
whole trie is one sorted array of keys. `suffix` links an n-gram to itself without its first word (the back-off).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dirnet.asr.transcripts import is_comment, read_fields, read_transcripts
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.options import Parser, place

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
SPECIAL = (BOS, EOS, UNK)  # their word ids are 0, 1, 2


@dataclass(frozen=True)
class NgramModel:
    """A back-off n-gram model; nodes 1.. index the arrays (entry 0 is the empty history).

    words: id -> word, starting with <s>, </s>, <unk>; keys: (nodes,) int64, sorted; level, suffix: (nodes,) int;
    log_prob: (nodes,) log10 P(last word | words before); backoff: (nodes,) log10, 0 where nothing follows.
    """

    words: tuple[str, ...]
    order: int
    smoothing: str
    keys: np.ndarray
    level: np.ndarray
    suffix: np.ndarray
    log_prob: np.ndarray
    backoff: np.ndarray

    @property
    def start(self) -> int:
        """The state after <s>."""
        return 1

    def advance(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log10 P(word | state) and the next state, for arrays of states and word ids of one shape (n,)."""
        states = np.array(states, dtype=np.int64)
        words = np.asarray(words, dtype=np.int64)
        log_prob = np.zeros(len(states))
        todo = np.arange(len(states))
        while todo.size:
            keys = states[todo] * len(self.words) + words[todo]
            node = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            found = self.keys[node] == keys
            done, node = todo[found], node[found]
            log_prob[done] += self.log_prob[node]
            states[done] = np.where(self.level[node] < self.order, node, self.suffix[node])
            todo = todo[~found]  # back off: unigrams are complete, so this ends at the empty history
            log_prob[todo] += self.backoff[states[todo]]
            states[todo] = self.suffix[states[todo]]
        return log_prob, states

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> tuple[float, int, int]:
        """Perplexity over words and </s>, the number of tokens scored, and how many of them were unknown words."""
        index = {word: number for number, word in enumerate(self.words)}
        total, tokens, unknown = 0.0, 0, 0
        for sentence in sentences:
            state = np.array([self.start])
            for word in [*sentence, EOS]:
                number = index.get(word, 2)
                unknown += number == 2
                log_prob, state = self.advance(state, np.array([number]))
                total += log_prob[0]
                tokens += 1
        return 10 ** (-total / max(tokens, 1)), tokens, unknown

    def write_arpa(self, path: str | Path) -> None:
        """Write the model as ARPA text (log10, seven decimals), whole or not at all."""
        names = np.array(self.words, dtype=object)
        texts = np.full(1, "", dtype=object)
        first = 0  # of the level above
        with atomic_write(path) as stream:
            stream.write("\\data\\\n")
            stream.writelines(f"ngram {n}={np.count_nonzero(self.level == n)}\n" for n in range(1, self.order + 1))
            for n in range(1, self.order + 1):
                nodes = np.flatnonzero(self.level == n)
                parents, words = np.divmod(self.keys[nodes], len(self.words))
                texts = names[words] if n == 1 else texts[parents - first] + " " + names[words]
                first = nodes[0] if len(nodes) else first
                stream.write(f"\n\\{n}-grams:\n")
                for text, log_prob, backoff in zip(texts, self.log_prob[nodes], self.backoff[nodes], strict=True):
                    stream.write(f"{log_prob:.7f}\t{text}" + (f"\t{backoff:.7f}\n" if backoff else "\n"))
            stream.write("\n\\end\\\n")


def estimate(
    sentences: Iterable[Sequence[str]], order: int, vocabulary: Iterable[str] = (), smoothing: str = "auto"
) -> NgramModel:
    """Estimate an interpolated `order`-gram model; the words are those of the sentences and of `vocabulary`.

    smoothing: kneser-ney (modified, Chen & Goodman 1998), witten-bell, or auto: Kneser-Ney unless the counts are too
    few for its discounts. <unk> gets the probability of a word never seen. No sentence at all is a `UserError`.
    """
    if order < 1:
        raise UserError(f"n-gram order is {order}, expected 1 or more")
    words = {word: number for number, word in enumerate(SPECIAL)}
    tokens, depth = [], []  # ids of all sentences in a row, and the position of each in its sentence
    for sentence in sentences:
        ids = [0, *(words.setdefault(word, len(words)) for word in sentence), 1]
        tokens.extend(ids)
        depth.extend(range(len(ids)))
    if not tokens:
        raise UserError("no sentence to estimate a language model from; check the text files")
    for word in vocabulary:
        words.setdefault(word, len(words))
    counts = _count(np.array(tokens, np.int64), np.array(depth, np.int64), len(words), order)
    discounts = [_discounts(level.adjusted) for level in counts]
    if smoothing == "auto":
        smoothing = "witten-bell" if any(d is None for d in discounts) else "kneser-ney"
    if smoothing == "kneser-ney":
        if any(d is None for d in discounts):
            raise UserError("smoothing kneser-ney: too few words for its discounts; use witten-bell or auto")
    elif smoothing == "witten-bell":
        discounts = [None] * order
    else:
        raise UserError(f"smoothing is {smoothing!r}, expected auto, kneser-ney or witten-bell")
    return _probabilities(tuple(words), counts, discounts, smoothing)


@dataclass
class _Level:
    """The n-grams of one order: keys, raw counts, Kneser-Ney counts, suffix nodes (global) and a <s>-first flag."""

    keys: np.ndarray
    counts: np.ndarray
    suffix: np.ndarray
    starts: np.ndarray
    adjusted: np.ndarray


def _count(tokens: np.ndarray, depth: np.ndarray, size: int, order: int) -> list[_Level]:
    """The trie of counts; adjusted counts are the numbers of distinct left neighbours below the highest order."""
    counts = np.bincount(tokens, minlength=size)
    counts[0] = 0  # <s> is a history, never predicted
    unigrams = np.arange(size)
    levels = [_Level(unigrams, counts, np.zeros(size, np.int64), unigrams == 0, counts)]
    node, first = tokens + 1, 1  # node[t]: the n-gram that ends at t
    for n in range(2, order + 1):
        ends = np.flatnonzero(depth >= n - 1)
        keys, where, inverse, counts = np.unique(
            node[ends - 1] * size + tokens[ends], return_index=True, return_inverse=True, return_counts=True
        )
        above, starts = levels[-1], levels[-1].starts[keys // size - first]
        levels.append(_Level(keys, counts, node[ends[where]], starts, counts))
        left = np.bincount(levels[-1].suffix - first, minlength=len(above.keys))
        above.adjusted = np.where(above.starts, above.counts, left)
        first += len(above.keys)
        node = np.zeros_like(node)
        node[ends] = first + inverse
    return levels


def _discounts(counts: np.ndarray) -> np.ndarray | None:
    """Discounts for counts 0, 1, 2 and 3+ (Chen & Goodman 1998, Eq. 17), or None where the counts do not give them."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == c)) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return None
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return discounts if np.all(discounts[1:] > 0) and np.all(discounts[1:] < (1, 2, 3)) else None


def _probabilities(words: tuple[str, ...], levels: list[_Level], discounts: list, smoothing: str) -> NgramModel:
    """Interpolate each order with the one below: P(w | h) = kept(h w) / total(h) + gamma(h) P(w | h but its first)."""
    size = len(words)
    nodes = 1 + sum(len(level.keys) for level in levels)
    prob, gamma = np.zeros(nodes), np.zeros(nodes)
    suffix, depth = np.zeros(nodes, np.int64), np.zeros(nodes, np.int8)
    first = 1
    for n, (level, discount) in enumerate(zip(levels, discounts, strict=True), start=1):
        parents = level.keys // size
        here = slice(first, first + len(level.keys))
        if discount is None:  # Witten-Bell: as many unseen events as there are distinct followers
            kept = level.counts.astype(float)
            freed = np.bincount(parents, level.counts > 0, minlength=nodes)
            total = np.bincount(parents, kept, minlength=nodes) + freed
        else:
            taken = discount[np.minimum(level.adjusted, 3)]
            kept = level.adjusted - taken
            freed = np.bincount(parents, taken, minlength=nodes)
            total = np.bincount(parents, level.adjusted, minlength=nodes)
        np.divide(freed, total, out=gamma, where=total > 0)
        lower = prob[level.suffix] if n > 1 else 1 / (size - 1)  # below the unigrams: uniform, <s> left out
        prob[here] = kept / total[parents] + gamma[parents] * lower
        if n == 1:
            prob[1] = 0.0
        suffix[here], depth[here] = level.suffix, n
        first = here.stop
    with np.errstate(divide="ignore"):
        log_prob = np.where(prob > 0, np.log10(prob), -99.0)
        backoff = np.where(gamma > 0, np.log10(gamma), 0.0)
    keys = np.concatenate([[-1], *(level.keys for level in levels)])
    return NgramModel(words, len(levels), smoothing, keys, depth, suffix, log_prob, backoff)


def read_sentences(path: str | Path) -> Iterator[list[str]]:
    """The non-blank lines of a sentence file (plain or .gz) as words."""
    return (words for _, words in read_fields(path) if words)


def read_arpa_words(path: str | Path) -> list[str]:
    """The words of the ARPA file `path` (plain or .gz), <s> and its like too; without unigrams it is a `UserError`."""
    words, inside = [], False
    for number, fields in read_fields(path):
        if not fields:
            continue
        if fields[0].startswith("\\"):
            if inside:
                break
            inside = fields[0] == "\\1-grams:"
        elif inside:
            if len(fields) not in (2, 3):
                raise UserError(f"{path}:{number} is no unigram, expected `log10-probability word [back-off]`")
            words.append(fields[1])
    if not words:
        raise UserError(f"{path} is no ARPA language model: it has no \\1-grams: section")
    return words


def read_words(path: str | Path, limit: int | None = None) -> list[str]:
    """The first field of each line of a lexicon, word list or word-count list; the `limit` most counted when given.

    Counts are the second field; a list without counts is taken as sorted by frequency.
    """
    rows = [fields for _, fields in read_fields(path) if fields and not is_comment(fields[0])]
    if limit is not None and all(len(fields) > 1 and fields[1].isdigit() for fields in rows):
        rows.sort(key=lambda fields: -int(fields[1]))
    return list(dict.fromkeys(fields[0] for fields in rows))[:limit]


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Estimate an ARPA language model from transcripts and sentence files."""
    parser = Parser(prog="python -m dirnet.asr.ngram", description=main.__doc__)
    parser.add_argument("--text", nargs="*", default=[], help="Kaldi text files (the first column is the utterance id)")
    parser.add_argument("--lm_text", nargs="*", default=[], help="sentence files, one sentence a line, plain or .gz")
    parser.add_argument("--order", type=int, default=3, help="words of an n-gram")
    parser.add_argument("--smoothing", default="auto", choices=("auto", "kneser-ney", "witten-bell"))
    parser.add_argument("--lexicon", default="", help="words outside this lexicon become <unk>")
    parser.add_argument("--vocab", default="", help="words to add: a list, a lexicon or word counts")
    parser.add_argument("--vocab_size", type=int, help="take only so many words of --vocab, the most frequent")
    parser.add_argument("--dev", default="", help="Kaldi text file to report the perplexity of")
    parser.add_argument("--out", required=True, type=place, help="ARPA file to write")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.order <= 9:
        raise UserError(f"--order is {arguments.order}, expected 1 to 9")

    sentences = [words for path in filter(None, arguments.text) for words in read_transcripts(path).values()]
    sentences += [words for path in filter(None, arguments.lm_text) for words in read_sentences(path)]
    added = read_words(arguments.vocab, arguments.vocab_size) if arguments.vocab else []
    if arguments.lexicon:
        known = set(read_words(arguments.lexicon))
        sentences = [[word if word in known else UNK for word in words] for words in sentences]
        added = [word for word in added if word in known]
    model = estimate(sentences, arguments.order, added, arguments.smoothing)
    model.write_arpa(arguments.out)
    sizes = " + ".join(str(np.count_nonzero(model.level == n)) for n in range(1, model.order + 1))
    print(f"{arguments.out}: {model.order}-gram, {model.smoothing}, {sizes} n-grams from {len(sentences)} sentences")
    if arguments.dev:
        perplexity, tokens, unknown = model.perplexity(read_transcripts(arguments.dev).values())
        print(f"{arguments.dev}: perplexity {perplexity:.1f} over {tokens} tokens, {unknown} of them unknown words")
    return 0


if __name__ == "__main__":
    main()
