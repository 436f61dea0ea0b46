"""Language models as programs: the same words, the same probabilities; every engine beside them."""

from __future__ import annotations

import json

import pytest
import torch

from dirnet.compression.compressor import compress
from dirnet.deploy import language_program as language
from dirnet.deploy.program import Program
from dirnet.deploy.verify import check_files, check_outputs
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.language import LanguageModel, LanguageModelConfig

WORDS = ("<blank>", "<unk>", *(f"w{n}" for n in range(40)), "<sos/eos>")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a dense model `lm`, and of it compressed, `dirnet` and `dirnet_b8_int8`."""
    root = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    config = LanguageModelConfig("lstm", embedding_size=12, hidden_size=24, num_layers=2, words=WORDS)
    storage.save(LanguageModel(config), root / "lm")
    for name, kind in (("dirnet", {}), ("dirnet_b8_int8", {"block": 8, "dtype": "int8"})):
        storage.save(compress(storage.load_language(root / "lm"), "1.5x", "dirnet", seed=0, **kind)[0], root / name)
    return root


@torch.no_grad()
@pytest.mark.parametrize("name", ["lm", "dirnet"])
def test_a_program_says_what_the_model_says(folders, name):
    model, folder = storage.load_language(folders / name), folders / name
    assert "parity with torch" in language.export(model, folder)
    ids = torch.tensor([42, 2, 3, 5, 41, 1])
    found = Program(folder / language.PROGRAM).stream(ids[:, None].float()).log_softmax(-1)
    torch.testing.assert_close(found, model(ids[None])[0][0], atol=1e-5, rtol=1e-5)
    assert "is already the program" in language.export(model, folder)
    check_files(folder / language.PROGRAM)
    assert "is sound" in check_outputs(folder / language.PROGRAM)
    assert storage.load_language(folder).config == model.config  # the report beside the program is not the model's


def test_what_reads_the_embedding_is_the_rest_of_the_model(folders):
    model = storage.load_language(folders / "dirnet")
    ids, rest = torch.tensor([[42, 7, 9]]), language.beyond_embedding(model)
    with torch.no_grad():
        found = rest(model.embedding(ids), torch.tensor([3]))[0]
        torch.testing.assert_close(found, model(ids)[0], atol=1e-6, rtol=1e-6)


def test_speed_is_told_beside_every_dense_engine(folders, program, tmp_path):
    text = tmp_path / "text"
    text.write_text("s1 w1 w2 w3\ns2 w4 zebra\n")
    models = [folders / name for name in ("lm", "dirnet", "dirnet_b8_int8")]
    status, shown, error = program(language.main, "--models", *models, "--words", text, "--measured_words", "20")
    assert status == 0, error
    dense, *small = (json.loads((folder / language.SPEED).read_text()) for folder in models)
    engines = {(line["engine"], line["dtype"]) for line in dense["engines"]}
    assert {("torch", "fp32"), ("executorch dirnet", "fp32"), ("executorch xnnpack", "fp32")} <= engines
    fastest = min(line["us_per_frame"]["p50"] for line in dense["engines"] if line["dtype"] == "fp32")
    assert dense["us_per_word"] == pytest.approx(fastest) and dense["speed_up"] == pytest.approx(1)
    for told in small:
        assert told["speed_up"] == pytest.approx(fastest / told["us_per_word"])
        assert told["words_per_second"] == pytest.approx(1e6 / told["us_per_word"])
    assert small[1]["engines"][0]["dtype"] == "int8"


def test_words_are_numbered_as_the_model_knows_them(tmp_path):
    (tmp_path / "text").write_text("s1 w0 zebra\ns2 w39\n")
    assert language.word_ids(tmp_path / "text", WORDS).tolist() == [2, 1, 41]
    (tmp_path / "empty").write_text("s1\n")
    (tmp_path / "latin").write_bytes("s1 für\n".encode("latin-1"))
    for name, message in (("empty", "holds no words"), ("none", "does not exist"), ("latin", "is not UTF-8 text")):
        with pytest.raises(UserError, match=message):
            language.word_ids(tmp_path / name, WORDS)


def test_mistakes_are_one_line(folders, program, tmp_path):
    torch.manual_seed(0)
    config = LanguageModelConfig("lstm", embedding_size=12, hidden_size=24, num_layers=2, words=(*WORDS[:-2], "</s>"))
    storage.save(LanguageModel(config), tmp_path / "other")
    (tmp_path / "text").write_text("s1 w1\n")
    words = ("--words", tmp_path / "text")
    for arguments, message in (
        (("--models", folders / "dirnet", *words), "is compressed; the first of --models is the dense one"),
        (("--models", folders / "lm", tmp_path / "other", *words), "other knows other words than"),
        (("--models", folders / "lm", *words, "--threads", 0), "--threads is 0"),
        (("--models", folders / "lm", *words, "--measured_words", 0), "--measured_words is 0"),
    ):
        status, _, error = program(language.main, *arguments)
        assert status == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "other" / language.PROGRAM).exists()
