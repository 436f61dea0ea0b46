"""The estimated models are compared with the textbook formula written down word by word, and read back by kaldilm."""

from __future__ import annotations

import gzip
import math
from collections import Counter, defaultdict

import kaldifst
import numpy as np
import pytest

from dirnet.asr import graph, ngram
from dirnet.asr.lexicon import read_lexicon
from dirnet.errors import UserError


def corpus(sentences=300, seed=0):
    """Sentences in which few words are frequent and each prefers some followers: all counts from 1 to 4 occur."""
    random = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, 151)
    frequency /= frequency.sum()
    found = []
    for _ in range(sentences):
        sentence = [random.choice(150, p=frequency)]
        for _ in range(random.integers(0, 8)):
            likely = (7 * sentence[-1] + random.integers(2)) % 150
            sentence.append(likely if random.random() < 0.6 else random.choice(150, p=frequency))
        found.append([f"w{word}" for word in sentence])
    return found


class Textbook:
    """Interpolated modified Kneser-Ney or Witten-Bell by recursion over dictionaries."""

    def __init__(self, sentences, order, smoothing, extra=()):
        self.smoothing, self.order = smoothing, order
        padded = [["<s>", *s, "</s>"] for s in sentences]
        grams = {
            n: Counter(tuple(s[i : i + n]) for s in padded for i in range(len(s) - n + 1)) for n in range(1, order + 1)
        }
        self.words = {w for s in padded for w in s} - {"<s>"} | {"<unk>"} | set(extra)
        self.counts = {}
        for n, counts in grams.items():
            if smoothing == "kneser-ney" and n < order:
                left = Counter(gram[1:] for gram in grams[n + 1])
                counts = {g: c if g[0] == "<s>" else left[g] for g, c in counts.items()}
            self.counts[n] = {g: c for g, c in counts.items() if g != ("<s>",)}
        self.followers = {n: defaultdict(dict) for n in self.counts}
        for n, counts in self.counts.items():
            for gram, count in counts.items():
                self.followers[n][gram[:-1]][gram[-1]] = count

    def discount(self, n, count):
        if count == 0:
            return 0.0
        have = Counter(self.counts[n].values())
        y = have[1] / (have[1] + 2 * have[2])
        k = min(count, 3)
        return k - (k + 1) * y * have[k + 1] / have[k]

    def probability(self, word, history):
        history = tuple(history)[-(self.order - 1) :] if self.order > 1 else ()
        lower = self.probability(word, history[1:]) if history else 1 / len(self.words)
        followers = self.followers[len(history) + 1].get(history)
        if not followers:
            return lower
        count, total = followers.get(word, 0), sum(followers.values())
        if self.smoothing == "witten-bell":
            return (count + len(followers) * lower) / (total + len(followers))
        discount = {c: self.discount(len(history) + 1, c) for c in set(followers.values()) | {count}}
        freed = sum(discount[c] for c in followers.values())
        return (count - discount[count]) / total + freed / total * lower


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_are_the_textbook_ones_and_sum_to_one(smoothing, order):
    sentences = corpus()
    model = ngram.estimate(sentences, order, ["unseen"], smoothing)
    textbook = Textbook(sentences, order, smoothing, ["unseen"])
    index = {word: n for n, word in enumerate(model.words)}
    predicted = np.array([n for word, n in index.items() if word != "<s>"])
    histories = {tuple(["<s>", *s][max(0, i - order + 1) : i + 1]) for s in sentences[:15] for i in range(len(s))}
    for history in histories | {("w3", "w3"), ("unseen", "w1")}:
        state = np.array([0])
        for word in history:
            state = (
                np.array([model.start]) if word == "<s>" else model.advance(state, np.array([index.get(word, 2)]))[1]
            )
        log_prob, _ = model.advance(np.repeat(state, len(predicted)), predicted)
        assert np.sum(10**log_prob) == pytest.approx(1, abs=1e-9)
        for word in ("</s>", "<unk>", "unseen", "w0", "w7", "w90"):
            if word in index:
                expected = textbook.probability(word, history)
                assert 10 ** log_prob[list(predicted).index(index[word])] == pytest.approx(expected, rel=1e-9)


def read_arpa(path):
    """log10 probabilities and back-off weights of an ARPA file."""
    grams, order = {}, 0
    for line in path.read_text().splitlines():
        if line.endswith("-grams:"):
            order = int(line[1])
        elif order and line and line[0] != "\\":
            fields = line.split()
            grams[tuple(fields[1 : order + 1])] = (
                float(fields[0]),
                float(fields[order + 1]) if len(fields) > order + 1 else 0,
            )
    return grams


def backed_off(grams, word, history):
    if (*history, word) in grams:
        return grams[(*history, word)][0]
    return grams.get(history, (0, 0))[1] + backed_off(grams, word, history[1:])


def test_perplexity_is_that_of_the_arpa_file_read_by_hand(tmp_path):
    model = ngram.estimate(corpus(), 3)
    model.write_arpa(tmp_path / "lm.arpa")
    grams = read_arpa(tmp_path / "lm.arpa")
    test = [*corpus(40, seed=1), ["w1", "never-seen", "w2"]]
    total, tokens, strange = 0.0, 0, sum((w,) not in grams for s in test for w in s)
    for sentence in test:
        words = ["<s>", *(w if (w,) in grams else "<unk>" for w in sentence), "</s>"]
        for i in range(1, len(words)):
            total += backed_off(grams, words[i], tuple(words[max(0, i - 2) : i]))
            tokens += 1
    perplexity, counted, unknown = model.perplexity(test)
    assert (counted, unknown) == (tokens, strange) and strange
    assert perplexity == pytest.approx(10 ** (-total / tokens), rel=1e-5)


def test_training_text_is_less_surprising_with_a_longer_history():
    sentences, held_out = corpus(1500), corpus(200, seed=1)
    perplexities = [ngram.estimate(sentences, order).perplexity(held_out)[0] for order in (1, 2)]
    assert perplexities[1] < 0.7 * perplexities[0]


def test_kaldilm_reads_the_model(tmp_path):
    sentences = corpus(100)
    model = ngram.estimate(sentences, 3)
    model.write_arpa(tmp_path / "lm.arpa")
    words = ["<eps>", *(w for w in model.words if w not in ngram.SPECIAL), "#0", "<s>", "</s>"]
    (tmp_path / "words.txt").write_text("".join(f"{w} {n}\n" for n, w in enumerate(words)))
    with open(tmp_path / "lm.arpa", "rb") as plain, gzip.open(tmp_path / "lm.arpa.gz", "wb") as packed:
        packed.write(plain.read())
    grams = read_arpa(tmp_path / "lm.arpa")
    for path in ("lm.arpa", "lm.arpa.gz"):
        g = graph.grammar(tmp_path / path, tmp_path / "words.txt")
        for sentence in sentences[:10]:
            line = kaldifst.make_linear_acceptor([words.index(w) for w in sentence])
            kaldifst.add_self_loops(line, [words.index("#0")], [words.index("#0")])
            for state in range(line.num_states):  # back-offs may happen anywhere
                line.add_arc(state, kaldifst.StdArc(words.index("#0"), words.index("#0"), 0.0, state))
            kaldifst.arcsort(line, "olabel")
            best = kaldifst.shortest_path(kaldifst.StdVectorFst(kaldifst.compose(line, g)))
            cost = kaldifst.get_linear_symbol_sequence(best)[3].value
            padded = ["<s>", *sentence, "</s>"]
            log10 = sum(backed_off(grams, padded[i], tuple(padded[max(0, i - 2) : i])) for i in range(1, len(padded)))
            assert cost == pytest.approx(-log10 * math.log(10), rel=1e-3)


def test_few_words_fall_back_to_witten_bell():
    model = ngram.estimate([["one", "two"], ["two", "one"]], 3)
    assert model.smoothing == "witten-bell"
    with pytest.raises(UserError, match="too few words"):
        ngram.estimate([["one", "two"]], 3, smoothing="kneser-ney")


def test_words_without_counts_and_words_outside_the_lexicon(tmp_path, capsys):
    (tmp_path / "text").write_text("u1 ONE TWO\nu2 TWO ONE OTHER\n")
    (tmp_path / "counts").write_text("RARE 1\nOFTEN 90\nALSO 50\n")
    (tmp_path / "lexicon").write_text("ONE W AH N\nTWO T UW\nOFTEN AO F\nRARE R EH\nALSO AO L\n")
    arguments = ["--text", f"{tmp_path}/text", "--vocab", f"{tmp_path}/counts", "--vocab_size", "2"]
    arguments += ["--lexicon", f"{tmp_path}/lexicon", "--dev", f"{tmp_path}/text", "--out", f"{tmp_path}/lm.arpa"]
    with pytest.raises(SystemExit) as end:
        ngram.main(arguments)
    assert end.value.code == 0
    words = set(ngram.read_arpa_words(tmp_path / "lm.arpa"))
    assert words == {"<s>", "</s>", "<unk>", "ONE", "TWO", "OFTEN", "ALSO"}
    assert ("ONE", "<unk>") in read_arpa(tmp_path / "lm.arpa")
    assert "1 of them unknown" in capsys.readouterr().out


def test_comments_of_a_word_list_are_those_of_a_lexicon(tmp_path):
    (tmp_path / "lexicon").write_text(";;; ONE\n# TWO\n#THREE TH R IY\nFOUR F AO R # FIVE\n\n")
    assert ngram.read_words(tmp_path / "lexicon") == [*read_lexicon(tmp_path / "lexicon")] == ["#THREE", "FOUR"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ("u1\n", "text:1: utterance u1 has an empty transcript"), ("u1 A\nu1 B\n", "text:2.*twice")],
)
def test_bad_text_is_named(tmp_path, capsys, content, said):
    import re

    (tmp_path / "text").write_text(content)
    with pytest.raises(SystemExit) as end:
        ngram.main(["--text", f"{tmp_path}/text", "--out", f"{tmp_path}/lm.arpa"])
    assert end.value.code == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "lm.arpa").exists()


def test_what_is_no_arpa_is_refused(tmp_path):
    (tmp_path / "lm.arpa").write_text("hello\n")
    with pytest.raises(UserError, match="no ARPA"):
        ngram.read_arpa_words(tmp_path / "lm.arpa")
    with pytest.raises(UserError, match="expected 1 or more"):
        ngram.estimate([["a"]], 0)
    with pytest.raises(UserError, match="no sentence"):
        ngram.estimate([], 2)
