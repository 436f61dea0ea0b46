"""Token types: what each inventory holds, how words are written, and the lang folder made of them."""

from __future__ import annotations

from collections import Counter

import pytest

from dirnet.asr import lexicon, tokens
from dirnet.errors import UserError

TEXT = ["THE CAT SAT", "THE CAT'S HAT", "A BAT AND A CAT", "THAT HAT IS THE CAT'S", "CATS AND BATS"]
SENTENCES = [line.split() for line in TEXT]
COUNTS = Counter(word for words in SENTENCES for word in words)


@pytest.fixture
def data(tmp_path):
    """Data dirs train and test; `PIG` of test has letters that train lacks."""
    for name, lines in (("train", TEXT), ("test", ["THE CHAT SAT", "A PIG SAT"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text("".join(f"{name}{n} {line}\n" for n, line in enumerate(lines)))
    return tmp_path


def make(program, data, kind, *more):
    options = ["--data", data, "--sets", "train", "test", "--lang", data / "lang", "--token_type", kind]
    return program(lexicon.main, *options, *more)


def read(path):
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_names_of_an_inventory_tell_its_type():
    pieces = tokens.Pieces(tokens.train_pieces(SENTENCES, 30))
    spellers = {"char": tokens.Characters(COUNTS), "word": tokens.Words(COUNTS, 99), "bpe": pieces}
    for name, speller in spellers.items():
        assert tokens.type_of((tokens.BLANK, *speller.tokens)).name == name
    assert tokens.type_of(lexicon.OUTPUTS).name == tokens.type_of("-abc").name == "phn"
    assert [(kind.units, kind.rate) for kind in tokens.TYPES.values()] == [
        ("phones", "per"), ("chars", "cer"), ("words", "ter"), ("pieces", "ter")
    ]  # fmt: skip


def test_characters():
    speller = tokens.Characters(COUNTS)
    assert speller.tokens == (*sorted(set("".join(TEXT)) - {" "}), "<space>", "<oov>")
    assert speller.spell("CAT'S") == tuple("CAT'S") and speller.spell("PIG") == ()
    assert tokens.transcript("A PIG SAT".split(), speller) == "A <space> <oov> <space> S A T".split()


def test_words_are_the_most_frequent_and_ties_are_alphabetic():
    assert tokens.Words(COUNTS, 4).tokens == ("A", "AND", "CAT", "THE", "<oov>")  # AND, CAT'S and HAT come twice
    speller = tokens.Words(Counter({"<blank>": 9, "<unk>": 8, "\u2581X": 7, "HAT": 1}), 9)
    assert speller.tokens == ("HAT", "<oov>") and speller.spell("<blank>") == ()


def test_pieces_join_to_the_words_and_equal_texts_give_equal_models():
    model = tokens.train_pieces(SENTENCES, 30)
    speller = tokens.Pieces(model)
    assert len(speller.tokens) == 30 and speller.tokens[-1] == "<oov>" and "<unk>" not in speller.tokens
    assert model == tokens.train_pieces(SENTENCES, 30)
    for word in COUNTS:
        pieces = speller.spell(word)
        assert "".join(pieces) == tokens.WORD_START + word and set(pieces) <= set(speller.tokens)
        assert not any(piece.startswith(tokens.WORD_START) for piece in pieces[1:])
    assert speller.spell("CHAT") and speller.spell("PIG") == ()
    assert len(speller.spell("CAT")) < len("CAT") + 1  # something was joined


@pytest.mark.parametrize(
    ("kind", "more", "first"),
    [
        ("char", (), "T H E <space> C H A T <space> S A T"),
        ("word", (), "THE <oov> SAT"),
        ("bpe", ("--bpe_size", "20"), None),
    ],
)
def test_the_lang_folder(program, data, kind, more, first):
    status, out, err = make(program, data, kind, *more)
    assert status == 0, err
    lang, units = data / "lang", tokens.TYPES[kind].units
    outputs = lexicon.outputs_of(lang)
    assert outputs[0] == "<blank>" and len(set(outputs)) == len(outputs) and f"{len(outputs)} outputs of type" in out
    assert read(lang / "tokens.txt")[-2:] == [["<unk>"], ["<sos/eos>"]]
    one, two = read(data / "test" / f"text_{units}")
    assert "<oov>" in two and (first is None or one[1:] == first.split())
    entries = lexicon.read_spellings(lang)
    assert set(COUNTS) <= set(entries) and "PIG" not in entries and "<unk>" not in entries
    for _, *said in read(data / "train" / f"text_{units}"):
        assert set(said) <= set(outputs) - {"<oov>"}
    assert "PIG <oov> # unwritten, 1 times" in (lang / "oov.txt").read_text()
    assert (lang / "bpe.model").exists() == (kind == "bpe") and not (lang / "phones.txt").exists()
    status, _, err = make(program, data, kind, *more, "--oov", "error")
    assert status == 2 and "utterance test" in err and "cannot be written" in err


def test_rare_words_are_one_token_that_the_search_may_find(program, data):
    assert make(program, data, "word", "--word_size", "4")[0] == 0
    assert read(data / "train/text_words")[0] == "train0 THE CAT <oov>".split()
    assert lexicon.read_spellings(data / "lang")["<unk>"] == [("<oov>",)]


def test_inventories_of_two_sizes_keep_their_transcripts(program, data):
    for size in ("4", "99"):
        assert make(program, data, "word", "--word_size", size, "--transcripts", f"text_word{size}")[0] == 0
    assert read(data / "train/text_word4")[0] == "train0 THE CAT <oov>".split()
    assert read(data / "train/text_word99")[0] == "train0 THE CAT SAT".split()
    assert not (data / "train/text_words").exists()


def test_digits_and_marks_are_characters_like_others(program, data):
    """The rules for phones (stress digits, comments, variants) are not those of the lang folder's own lexicon."""
    (data / "train" / "text").write_text("u1 R2D2 ;;; W(2) # A0\n")
    (data / "test" / "text").write_text("u1 R2\n")
    assert make(program, data, "char")[0] == 0
    words = lexicon.read_spellings(data / "lang")
    assert all(words[word] == [tuple(word)] for word in ("R2D2", ";;;", "W(2)", "#", "A0", "R2"))
    (data / "lang/lexicon.txt").write_text("CAT C A T\n")
    with pytest.raises(UserError, match="lexicon.txt:1: 'CAT' needs 'C'"):
        lexicon.read_spellings(data / "lang")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("bpe", "--bpe_size", "4000"), "is 4000, which the transcripts do not allow (Vocabulary size too high (4000)"),
        (("bpe", "--bpe_size", "3"), "--bpe_size is 3, which the transcripts do not allow"),
        (("bpe", "--bpe_size", "0"), "--bpe_size is 0, expected 1 to 5000"),
        (("char", "--silence", "ends"), "--silence ends is for phones"),
    ],
)  # fmt: skip
def test_mistakes(program, data, options, said):
    status, _, err = make(program, data, *options)
    assert status == 2 and said in err and err.count("\n") == 1


def test_too_many_tokens_are_refused(tmp_path):
    sentences = [[chr(0x4E00 + n)] for n in range(tokens.MOST + 1)]
    with pytest.raises(UserError, match="5003 char tokens, expected at most 5000; use bpe"):
        tokens.learn("char", sentences, tmp_path, 500, 500)
