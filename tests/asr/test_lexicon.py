from __future__ import annotations

import pytest

from dirnet.asr import lexicon
from dirnet.errors import UserError

LEXICON = """;;; a comment
# another
READ R EH1 D
READ(2)  R IY1 D
READ\tR EH0 D # past
THE DH AH0
CAT K AE1 T
"""


@pytest.fixture
def data(tmp_path):
    """Two sets and a lexicon in a folder."""
    for name, text in {"train": "u1 THE CAT\nu2 READ THE\n", "test": "v1 CAT READ\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(text)
    (tmp_path / "lexicon").write_text(LEXICON)
    return tmp_path


@pytest.fixture
def small_dictionary(monkeypatch):
    """A tenth of the CMU dictionary and the words of these tests, so that the letter model is trained in a second."""
    whole = lexicon.cmu_dictionary()
    some = {word: whole[word] for word in [*sorted(whole)[::10], "speech", "hello", "world", "the", "cat", "read"]}
    monkeypatch.setattr(lexicon, "cmu_dictionary", lambda: some)


def make(program, data, *more, lexicon_file="lexicon"):
    given = ["--lexicon", data / lexicon_file] if lexicon_file else []
    arguments = ["--data", data, "--sets", "train", "test", "--lang", data / "lang", *given, *more]
    return program(lexicon.main, *arguments)


def test_stress_is_removed_and_equal_pronunciations_are_merged(data):
    assert lexicon.read_lexicon(data / "lexicon") == {
        "READ": [("R", "EH", "D"), ("R", "IY", "D")],
        "THE": [("DH", "AH")],
        "CAT": [("K", "AE", "T")],
    }


def test_probabilities_of_pronunciations_tell_their_order(data):
    """Kaldi's lexiconp.txt and lexiconp_silprob.txt."""
    (data / "lexiconp.txt").write_text("READ 0.5 R EH1 D\nREAD 1.0\tR IY1 D\nTHE 1 DH AH0\nCAT 1e-3 K AE1 T\n")
    lines = "READ 0.5 0.2 1.1 0.9 R EH1 D\nREAD 1.0 0.2 1.1 0.9 R IY1 D\nTHE 1 0.1 1 1 DH AH0\nCAT 1 0 0 0 K AE T\n"
    (data / "lexiconp_silprob.txt").write_text(lines)
    expected = {**lexicon.read_lexicon(data / "lexicon"), "READ": [("R", "IY", "D"), ("R", "EH", "D")]}
    for name in ("lexiconp.txt", "lexiconp_silprob.txt"):
        assert lexicon.read_lexicon(data / name) == expected
    (data / "bare").write_text("READ 0.5\n")
    with pytest.raises(UserError, match="word 'READ' has no phones"):
        lexicon.read_lexicon(data / "bare")


def test_the_tokens_are_the_ones_every_model_is_built_on():
    assert len(lexicon.ARPABET) == 39 and list(lexicon.ARPABET) == sorted(lexicon.ARPABET)
    assert len(lexicon.PHONES) == 41
    assert lexicon.OUTPUTS[0] == "<blank>" and lexicon.OUTPUTS[-2:] == ("SIL", "SPN") and len(lexicon.OUTPUTS) == 42
    assert lexicon.TOKENS == (*lexicon.OUTPUTS, "<unk>", "<sos/eos>")
    used = {p for pronunciations in lexicon.cmu_dictionary().values() for phones in pronunciations for p in phones}
    assert used == set(lexicon.ARPABET)


def test_the_outputs_of_a_lang_folder(tmp_path):
    assert lexicon.outputs_of(tmp_path) == lexicon.OUTPUTS
    (tmp_path / "tokens.txt").write_text("<blank>\nA\nB\n<unk>\n<sos/eos>\n")
    assert lexicon.outputs_of(tmp_path) == ("<blank>", "A", "B")
    (tmp_path / "tokens.txt").write_text("\n".join(lexicon.TOKENS))
    assert lexicon.outputs_of(tmp_path) == lexicon.OUTPUTS


def test_files_of_the_lang_folder_and_the_phone_transcripts(program, data):
    lang = data / "lang"
    lang.mkdir()
    (lang / "TLG.fst").write_text("of other words")
    status, out, _ = make(program, data, "--oov", "error")
    assert status == 0 and "3 words" in out and not (lang / "TLG.fst").exists()
    assert (lang / "lexicon.txt").read_text() == "CAT K AE T\nREAD R EH D\nREAD R IY D\nTHE DH AH\n"
    assert (lang / "words.txt").read_text() == "<eps> 0\nCAT 1\nREAD 2\nTHE 3\n#0 4\n<s> 5\n</s> 6\n"
    assert (lang / "tokens.txt").read_text().split() == list(lexicon.TOKENS)
    assert (lang / "phones.txt").read_text().split() == list(lexicon.PHONES)
    assert (lang / "oov.txt").read_text() == ""
    assert (data / "train" / "text_phones").read_text() == "u1 DH AH K AE T\nu2 R EH D DH AH\n"
    assert (data / "test" / "text_phones").read_text() == "v1 K AE T R EH D\n"
    assert lexicon.read_lexicon(lang / "lexicon.txt") == lexicon.read_lexicon(data / "lexicon")


@pytest.mark.parametrize(
    ("silence", "phones"),
    [("none", "DH AH K AE T"), ("ends", "SIL DH AH K AE T SIL"), ("words", "SIL DH AH SIL K AE T SIL")],
)
def test_silence(silence, phones):
    words = {"THE": [("DH", "AH")], "CAT": [("K", "AE", "T")]}
    assert lexicon.phone_transcript(["THE", "CAT"], words, silence) == phones.split()


def test_unknown_words_are_looked_up_then_spelled_and_reported(program, data, small_dictionary):
    (data / "test" / "text").write_text("v1 CAT SPEECH SNORGEL SNORGEL 77\n")
    status, out, _ = make(program, data)
    assert status == 0
    report = (data / "lang" / "oov.txt").read_text().splitlines()
    assert "SPEECH S P IY CH # cmudict, 1 times" in report
    assert any(line.startswith("SNORGEL S N AO R ") and line.endswith("# g2p, 2 times") for line in report)
    assert "77 SPN # spn, 1 times" in report
    assert "1 by cmudict" in out and "1 by g2p" in out
    known = lexicon.read_lexicon(data / "lang" / "lexicon.txt")
    assert known["SPEECH"] == [("S", "P", "IY", "CH")] and "SNORGEL" in known
    assert lexicon.read_lexicon(data / "lang" / "oov.txt").keys() == {"SPEECH", "SNORGEL", "77"}


def test_unknown_words_become_spn(program, data):
    (data / "test" / "text").write_text("v1 CAT SNORGEL\n")
    assert make(program, data, "--oov", "spn")[0] == 0
    assert (data / "test" / "text_phones").read_text() == "v1 K AE T SPN\n"
    assert "SNORGEL" not in (data / "lang" / "words.txt").read_text()
    assert lexicon.read_lexicon(data / "lang" / "lexicon.txt")["<unk>"] == [("SPN",)]
    assert (data / "lang" / "oov.txt").read_text() == "SNORGEL SPN # spn, 1 times\n"


@pytest.mark.parametrize("oov", ["g2p", "spn", "error"])
def test_markers_of_noises_are_no_words_to_spell(program, data, oov):
    (data / "test" / "text").write_text("v1 CAT <unk> [laughter] !SIL\n")
    assert make(program, data, "--oov", oov)[0] == 0
    assert (data / "test" / "text_phones").read_text() == "v1 K AE T SPN SPN SPN\n"
    report = (data / "lang" / "oov.txt").read_text()
    assert report == "!SIL SPN # marker, 1 times\n[laughter] SPN # marker, 1 times\n"


def test_unknown_words_are_an_error(program, data):
    (data / "test" / "text").write_text("v1 CAT SNORGEL\n")
    status, _, err = make(program, data, "--oov", "error")
    assert status == 2 and "v1" in err and "'SNORGEL'" in err and "--oov" in err
    assert not (data / "lang").exists() and not (data / "train" / "text_phones").exists()


def test_without_a_lexicon_the_cmu_dictionary_serves_any_letter_case(program, data):
    (data / "test" / "text").write_text("v1 Hello WORLD\n")
    assert make(program, data, lexicon_file=None)[0] == 0
    assert (data / "test" / "text_phones").read_text() == "v1 HH AH L OW W ER L D\n"
    words = lexicon.read_lexicon(data / "lang" / "lexicon.txt")
    assert set(words) == {"Hello", "WORLD", "THE", "CAT", "READ"}  # what is needed, not 126 k words


def test_text_in_another_letter_case_is_told(program, data, small_dictionary):
    (data / "more").write_text("the cat WORLD\n")
    assert "2 words of the language model (the first: the)" in make(program, data, "--lm_text", data / "more")[1]
    (data / "more").write_text("THE CAT WORLD\n")
    assert "warning" not in make(program, data, "--lm_text", data / "more")[1]


def test_words_of_the_language_model_are_needed_too(program, data):
    (data / "more").write_text("WORLD SPEECH\n")
    (data / "lm.arpa").write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-9 <s>\n-1 </s>\n-1 <unk>\n-1 HELLO\n\n\\end\\\n")
    assert make(program, data, "--lm_text", data / "more", "--arpa", data / "lm.arpa", lexicon_file=None)[0] == 0
    words = lexicon.read_lexicon(data / "lang" / "lexicon.txt")
    assert set(words) == {"WORLD", "SPEECH", "HELLO", "THE", "CAT", "READ"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("CAT K AE1 T\nDOG D QQ G\n", "lexicon:2: 'QQ' in 'DOG'"),
        ("CAT K AE1 T\n\nDOG\n", "lexicon:3: word 'DOG' has no phones"),
        ("#0 K\n", "lexicon:1: '#0' is reserved"),
        (";;; nothing\n", "holds no words"),
        ("CAT k ae t\n", "lexicon:1: 'k' in 'CAT'"),
    ],
)
def test_bad_lexicons_are_named_by_line(program, data, content, said):
    (data / "lexicon").write_text(content)
    status, _, err = make(program, data)
    assert status == 2 and said in err and err.count("\n") == 1
    assert not (data / "lang").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [("v1 CAT\nv2\n", "text:2: utterance v2 has an empty transcript"), ("v1 #0\n", "'#0' is reserved"), ("", "empty")],
)
def test_bad_transcripts_are_named(program, data, content, said):
    (data / "test" / "text").write_text(content)
    status, _, err = make(program, data)
    assert status == 2 and said in err


def test_missing_and_binary_files(program, data, tmp_path):
    status, _, err = make(program, data, lexicon_file="nowhere")
    assert status == 2 and "nowhere does not exist" in err
    (data / "binary").write_bytes(b"CAT K AE T\n\xff\xfe\n")
    with pytest.raises(UserError, match="binary:.*UTF-8"):
        lexicon.read_lexicon(data / "binary")
    (data / "lexicon.gz").write_bytes(b"\x1f\x8bnot really")
    with pytest.raises(UserError, match="gzip"):
        lexicon.read_lexicon(data / "lexicon.gz")
