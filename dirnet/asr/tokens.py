"""Token types: what the outputs of a model stand for, and how words are written in them.

phn: phones of `dirnet.asr.lexicon`. char: characters, with `<space>` between words. word: whole words. bpe: pieces of
sentencepiece, those that begin a word starting with U+2581. A lang folder's `tokens.txt` owns the inventory, and its
names tell its type.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dirnet.errors import UserError
from dirnet.files import atomic_write

BLANK = "<blank>"
SPACE, OOV, WORD_START = "<space>", "<oov>", "\u2581"  # `<oov>`: a word that cannot be written
BPE_MODEL = "bpe.model"  # of a lang folder
MOST = 5000  # outputs: the CTC topology of the graph and the denominator of sMBR grow with their square


@dataclass(frozen=True)
class TokenType:
    """units: of file names, `text_UNITS` of a data dir. rate: its error rate's name in `dirnet.asr.score`."""

    name: str
    units: str
    rate: str


TYPES = {
    kind.name: kind
    for kind in (
        TokenType("phn", "phones", "per"),
        TokenType("char", "chars", "cer"),
        TokenType("word", "words", "ter"),
        TokenType("bpe", "pieces", "ter"),
    )
}


def type_of(outputs: Iterable[str]) -> TokenType:
    """The type of an inventory; one without the names of another type is of phones."""
    outputs = set(outputs)
    if SPACE in outputs:
        return TYPES["char"]
    if any(output.startswith(WORD_START) for output in outputs):
        return TYPES["bpe"]
    return TYPES["word" if OOV in outputs else "phn"]


class Speller(Protocol):
    """`tokens`: the inventory without the blank; `spell(word)`: its tokens, none where they do not suffice."""

    tokens: tuple[str, ...]

    def spell(self, word: str) -> tuple[str, ...]: ...


class Characters:
    """The characters of the words in `counts`."""

    def __init__(self, counts: Counter):
        self._known = {character for word in counts for character in word}
        self.tokens = (*sorted(self._known), SPACE, OOV)

    def spell(self, word: str) -> tuple[str, ...]:
        return tuple(word) if self._known.issuperset(word) else ()


class Words:
    """The `size` most frequent words in `counts`, equally frequent ones in alphabetic order."""

    def __init__(self, counts: Counter, size: int):
        names = sorted(counts, key=lambda word: (-counts[word], word))
        special = {BLANK, SPACE, OOV, "<unk>", "<sos/eos>"}
        self._known = {word for word in names if word not in special and not word.startswith(WORD_START)}
        self._known &= set(names[:size])
        self.tokens = (*sorted(self._known), OOV)

    def spell(self, word: str) -> tuple[str, ...]:
        return (word,) if word in self._known else ()


class Pieces:
    """The pieces of the sentencepiece model in the bytes `model`."""

    def __init__(self, model: bytes):
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        numbers = range(self._processor.get_piece_size())
        self._known = [self._processor.id_to_piece(n) for n in numbers if not self._processor.is_unknown(n)]
        self.tokens = (*self._known, OOV)
        self._known = set(self._known)

    def spell(self, word: str) -> tuple[str, ...]:
        pieces = self._processor.encode(word, out_type=str)
        return tuple(pieces) if self._known.issuperset(pieces) else ()


def train_pieces(sentences: Iterable[Sequence[str]], size: int) -> bytes:
    """A sentencepiece model of `size` byte pairs (its own `<unk>` among them) that knows every character."""
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(" ".join(words) for words in sentences), model_writer=model, model_type="bpe",
            vocab_size=size, character_coverage=1.0, normalization_rule_name="identity", bos_id=-1, eos_id=-1,
            num_threads=1, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:  # too many pieces for the text, or fewer than its characters
        raise UserError(f"--bpe_size is {size}, which the transcripts do not allow ({_reason(error)})") from None
    return model.getvalue()


def learn(name: str, sentences: Sequence[Sequence[str]], lang: Path, bpe_size: int, word_size: int) -> Speller:
    """The speller of the type `name` (not phn) for the training transcripts; of pieces it leaves `lang/bpe.model`."""
    counts = Counter(word for words in sentences for word in words)
    if name == "bpe":
        model = train_pieces(sentences, bpe_size)
        with atomic_write(lang / BPE_MODEL, "wb") as stream:
            stream.write(model)
        speller: Speller = Pieces(model)
    else:
        speller = Characters(counts) if name == "char" else Words(counts, word_size)
    if len(speller.tokens) > MOST + 2:
        raise UserError(f"the transcripts have {len(speller.tokens)} {name} tokens, expected at most {MOST}; use bpe")
    return speller


def transcript(words: Sequence[str], speller: Speller) -> list[str]:
    """`words` as a model is to say them, `<oov>` for one that cannot be written."""
    tokens: list[str] = []
    for number, word in enumerate(words):
        if number and SPACE in speller.tokens:
            tokens.append(SPACE)
        tokens.extend(speller.spell(word) or (OOV,))
    return tokens


def _reason(error: RuntimeError) -> str:
    """What sentencepiece says behind its source line: `... Vocabulary size too high (9000). Please set it to ...`."""
    return " ".join(str(error).split()).rpartition("] ")[2].rstrip(".") or "it says no more"
