from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dirnet.asr import decode, graph, lexicon, ngram
from dirnet.asr.ark import write_ark
from dirnet.asr.transcripts import read_transcripts
from dirnet.errors import UserError

ROOT = Path(__file__).parent.parent.parent
WORDS = {"SEE": "S IY", "SEA": "S IY", "SEAT": "S IY T", "TEA": "T IY", "EAT": "IY T"}
SENTENCES = ["SEE TEA", "EAT SEAT", "TEA SEE SEAT", "SEE SEAT", "EAT TEA EAT"]


@pytest.fixture(scope="module")
def lang(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lang")
    entries = {word: [tuple(phones.split())] for word, phones in WORDS.items()}
    lexicon.write_lexicon(folder / "lexicon.txt", entries)
    symbols = ["<eps>", *sorted(entries), "#0", "<s>", "</s>"]
    (folder / "words.txt").write_text("".join(f"{word} {n}\n" for n, word in enumerate(symbols)))
    (folder / "lang.json").write_text('{"silence": "none"}')
    ngram.estimate([s.split() for s in SENTENCES], 2, entries).write_arpa(folder / "lm.arpa")
    with pytest.raises(SystemExit) as end:
        graph.main(["--lang", str(folder), "--arpa", str(folder / "lm.arpa")])
    assert end.value.code == 0
    return folder


def posteriors(tokens, noise=1.0, certainty=8.0, seed=0):
    """Log-posteriors (T, 42) that favour one output a frame."""
    scores = np.random.default_rng(seed).normal(size=(len(tokens), 42)) * noise
    scores[np.arange(len(tokens)), tokens] += certainty
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def frames(sentence):
    """Two frames a phone and a blank after it."""
    phones = [phone for word in sentence.split() for phone in WORDS[word].split()]
    return [token for phone in phones for token in [lexicon.OUTPUTS.index(phone)] * 2 + [0]]


def test_greedy_phones_are_the_ctc_collapse_of_the_best_outputs():
    for tokens in itertools.product(range(3), repeat=5):
        expected = [lexicon.OUTPUTS[token] for token, _ in itertools.groupby(tokens) if token]
        assert decode.greedy_phones(posteriors(list(tokens))) == expected
    assert decode.greedy_phones(np.zeros((0, 42), np.float32)) == []


def test_pieces_give_the_same_words_and_score_as_the_whole(lang):
    decoder = decode.Decoder(lang)
    for seed, sentence in enumerate(SENTENCES):
        log_probs = posteriors(frames(sentence), noise=2.0, seed=seed)
        whole = decoder.decode(log_probs)
        assert whole[0] == sentence.split()
        decoder.start()
        for piece in np.array_split(log_probs, 4):
            decoder.advance(piece)
            decoder.result()
        result = decoder.result()
        assert (result.words, result.complete) == (whole[0], True)
        assert result.score == pytest.approx(whole[1], abs=1e-3)


def test_phones_in_pieces_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    tokens = list(rng.integers(0, 3, 60))  # few outputs, so that pieces end inside repeats
    decoder = decode.GreedyDecoder()
    for _ in range(2):  # the second time shows that nothing is left of the first
        decoder.start()
        for piece in np.split(posteriors(tokens), [1, 1, 2, 17, 40, 41]):
            decoder.advance(piece)
        result = decoder.result()
        assert result.words == decode.greedy_phones(posteriors(tokens)) != []
        assert result.score == pytest.approx(float(posteriors(tokens).max(1).sum()), rel=1e-5)


def test_phones_of_a_model_with_other_outputs():
    decoder = decode.GreedyDecoder(["-", "a", "b"])
    decoder.advance(np.log(np.array([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7]], np.float32)))
    assert decoder.result().words == ["a", "b"]
    with pytest.raises(UserError, match=r"shape \(5, 42\), expected \(frames, 3\)"):
        decoder.advance(posteriors([0] * 5))


def test_blank_penalty_and_acoustic_scale_act_on_the_scores(lang):
    log_probs = posteriors(frames("SEE TEA"), noise=0)
    plain = decode.Decoder(lang).decode(log_probs)[1]
    penalty = decode.Decoder(lang, decode.DecodeConfig(blank_penalty=0.5)).decode(log_probs)[1]
    assert penalty == pytest.approx(plain - 0.5 * frames("SEE TEA").count(0), abs=1e-2)
    scaled = decode.Decoder(lang, decode.DecodeConfig(acoustic_scale=2.0, beam=30)).decode(log_probs)[1]
    assert scaled == pytest.approx(plain + log_probs.max(1).sum(), abs=1e-2)


def test_unfinished_words_are_kept_and_flagged(lang):
    """EAT, then half of it, all of it certain: no hypothesis is at the end of a word."""
    decoder = decode.Decoder(lang, decode.DecodeConfig(beam=5.0, min_active=0))
    decoder.start()
    decoder.advance(posteriors(frames("EAT EAT")[:-3], noise=0, certainty=30))
    result = decoder.result()
    assert not result.complete and result.words[:1] == ["EAT"]


def fresh(_, *arguments, before: str = "") -> tuple[int, str, str]:
    """As `program`, in a process of its own after the lines `before`: forks of one with threads may wait for ever."""
    command = [sys.executable, "-c", f"import os\nfrom dirnet.asr import decode\n{before}\ndecode.main()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def scp(tmp_path):
    """posteriors.scp of the sentences and the sentences by utterance."""
    found = {f"u{n}": sentence for n, sentence in enumerate(SENTENCES)}
    with write_ark(tmp_path / "p.ark", tmp_path / "p.scp", compress=False) as writer:
        for seed, (name, sentence) in enumerate(found.items()):
            writer.write(name, posteriors(frames(sentence), seed=seed))
    return tmp_path / "p.scp", found


@pytest.mark.parametrize("jobs", [1, 3])
def test_program(lang, scp, tmp_path, program, jobs):
    path, sentences = scp
    (tmp_path / "decode.yaml").write_text("beam: 12\nmax_active: 500\n")
    arguments = ["--lang", lang, "--posteriors", path, "--out", tmp_path / "out", "--nj", jobs]
    started = program if jobs == 1 else fresh
    status, out, _ = started(decode.main, *arguments, "--config", tmp_path / "decode.yaml")
    assert status == 0 and "RTF = " in out
    assert read_transcripts(tmp_path / "out" / "text") == {name: s.split() for name, s in sentences.items()}
    phones = {name: " ".join(WORDS[w] for w in s.split()).split() for name, s in sentences.items()}
    assert read_transcripts(tmp_path / "out" / "phones") == phones
    summary = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert summary["utterances"] == 5 and summary["unfinished"] == 0 and summary["config"]["beam"] == 12
    audio = 0.03 * sum(len(frames(s)) for s in sentences.values())
    assert summary["rtf"] == pytest.approx(summary["seconds"] / audio, rel=0.05)
    table = (tmp_path / "out" / "decode.tsv").read_text().splitlines()
    assert len(table) == 6 and table[1].startswith(f"u0\t{len(frames('SEE TEA'))}\t")


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.full((5, 42), np.nan, np.float32), "utterance bad: log-posteriors hold nan at frame 0"),
        (np.zeros((5, 44), np.float32), "shape (5, 44), expected (frames, 42)"),
    ],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_posteriors_are_named(lang, tmp_path, program, matrix, said, jobs):
    with write_ark(tmp_path / "p.ark", tmp_path / "p.scp", compress=False) as writer:
        writer.write("good", posteriors(frames("SEE TEA")))
        writer.write("bad", matrix)
    arguments = ["--lang", lang, "--posteriors", tmp_path / "p.scp", "--out", tmp_path / "out", "--nj", jobs]
    started = program if jobs == 1 else fresh
    status, _, err = started(decode.main, *arguments)
    assert status == 2 and said in err and not list((tmp_path / "out").glob("*"))


def test_a_process_that_is_killed_ends_the_run(lang, scp, tmp_path):
    """As by the kernel where memory is short; nobody would ever answer for what it was to decode."""
    arguments = ["--lang", lang, "--posteriors", scp[0], "--out", tmp_path / "out", "--nj", 2]
    status, _, error = fresh(
        decode.main, *arguments, before="decode.greedy_phones = lambda *_: os.kill(os.getpid(), 9)"
    )
    assert status == 2 and "one of 2 processes was killed" in error and error.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_bad_settings_and_missing_files(lang, scp, tmp_path, program):
    with pytest.raises(UserError, match="beam is -1"):
        decode.DecodeConfig(beam=-1)
    with pytest.raises(UserError, match="max_active is 10 and min_active 20"):
        decode.DecodeConfig(max_active=10)
    (tmp_path / "decode.yaml").write_text("beem: 12\n")
    arguments = ["--posteriors", scp[0], "--out", tmp_path / "out"]
    status, _, err = program(decode.main, "--lang", lang, *arguments, "--config", tmp_path / "decode.yaml")
    assert status == 2 and "did you mean 'beam'" in err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "words.txt").write_text("<eps> 0\n")
    status, _, err = program(decode.main, "--lang", tmp_path / "empty", *arguments)
    assert status == 2 and "TLG.fst does not exist" in err
    graph = bytearray((lang / "TLG.fst").read_bytes())
    graph[len(graph) // 2 : len(graph) // 2 + 600] = b"\xff" * 600  # impossible sizes
    for content in (b"no graph", graph):
        (tmp_path / "empty" / "TLG.fst").write_bytes(content)
        status, _, err = program(decode.main, "--lang", tmp_path / "empty", *arguments)
        assert status == 2 and "damaged" in err


def test_words_that_the_graph_knows_and_words_txt_lacks(lang, tmp_path):
    shutil.copytree(lang, tmp_path / "lang")
    words = (lang / "words.txt").read_text().splitlines(keepends=True)
    said = [line for line in words if line.split()[0] not in SENTENCES[0].split()]
    (tmp_path / "lang/words.txt").write_text("".join(said))
    decoder = decode.Decoder(tmp_path / "lang")
    with pytest.raises(UserError, match="words.txt lacks word [0-9]+ of TLG.fst; make the lexicon and the graph again"):
        decoder.decode(posteriors(frames(SENTENCES[0])))
    (tmp_path / "lang/words.txt").write_text("".join(words[:2]))
    with pytest.raises(UserError, match="words.txt is cut short"):
        decode.Decoder(tmp_path / "lang")
