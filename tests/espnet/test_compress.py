"""Tiny models of ESPnet's stock classes through `dirnet compress --espnet`, and ESPnet's programs on the outcome."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from stock_models import FRONTEND, KINDS, make_data, make_model, task_of
from torch import nn

from dirnet.compress_model import main
from dirnet.errors import UserError
from dirnet.espnet import folder, zoo
from dirnet.espnet.batches import Utterances
from dirnet.espnet.compress import check_reads
from dirnet.nn.cells import DirNetCell
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.recurrent import DirNetRecurrent

# Names of the layers that each kind has compressed, and the classes that their owners ask for.
LAYERS = {
    "blstmp_ctc_bpe": {"encoder.enc.0.birnn0": nn.LSTM, "encoder.enc.0.birnn1": nn.LSTM},
    "gru_ctc": {"encoder.enc.0.nbrnn": nn.GRU},
    "vgg_attention": {"encoder.enc.1.birnn0": nn.LSTM, "decoder.decoder.0": nn.LSTMCell,
                      "decoder.decoder.1": nn.LSTMCell},
    "gru_attention": {"encoder.enc.0.rnn0": nn.LSTM, "encoder.enc.0.rnn1": nn.LSTM, "decoder.decoder.0": nn.GRUCell},
    "transducer": {"encoder.enc.0.birnn0": nn.LSTM, "encoder.enc.0.birnn1": nn.LSTM, "decoder.decoder.0": nn.LSTM},
    "slu_gru": {"encoder.enc.0.birnn0": nn.GRU, "encoder.enc.0.birnn1": nn.GRU},
    "lm_lstm": {"lm.rnn": nn.LSTM},
    "lm_gru": {"lm.rnn": nn.GRU},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    make_data(folder)
    return folder


@pytest.fixture(autouse=True)
def work_in_root(root, monkeypatch):
    """As in one of ESPnet's recipes: paths of an experiment hold from the recipe's folder."""
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def small(root):
    """The compressed folder of a kind of model, made once: `small(kind)`."""
    made = {}

    def make(kind: str) -> Path:
        if kind not in made:
            source, out = make_model(root, kind), root / f"{kind}_small"
            with pytest.raises(SystemExit) as ended, contextlib.chdir(root):
                main(["--espnet", str(source), "--size", "2.5x", "--of", "recurrent", "--data", str(root / "data"),
                      "--data_utts", "3", "--out", str(out)])  # fmt: skip
            assert ended.value.code in (0, None)
            made[kind] = out
        return made[kind]

    return make


def load(folder: Path, kind: str) -> nn.Module:
    """As ESPnet does it."""
    checkpoint = next(path for path in folder.glob("*.pth"))
    return task_of(kind).build_model_from_file(folder / "config.yaml", checkpoint)[0]


def with_dense_weights(compressed: nn.Module, dense: nn.Module) -> nn.Module:
    """The stock model `dense` with all weights of `compressed`, `D Z` multiplied out."""
    state = {}
    for name, module in compressed.named_modules():
        if isinstance(module, DirNetRecurrent):
            state |= {f"{name}.{key}": value for key, value in module.to_dense().state_dict().items()}
        elif isinstance(module, DirNetCell):
            matrices = [group.matrix().detach().T for group in module.groups]
            state |= dict(zip((f"{name}.weight_ih", f"{name}.weight_hh"), matrices, strict=True))
            state |= {f"{name}.{bias}": getattr(module, bias) for bias in ("bias_ih", "bias_hh")}
    for key, value in compressed.state_dict().items():
        if ".groups." not in key:
            state.setdefault(key, value)
    dense.load_state_dict(state)
    return dense


@pytest.mark.parametrize("kind", LAYERS)
def test_every_stock_owner(kind, root, small, monkeypatch):
    out = small(kind)
    model, dense = load(out, kind), load(root / kind, kind)
    state = torch.load(out / "model.pth", weights_only=True)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    replaced = {name: module for name, module in model.named_modules()
                if isinstance(module, DirNetRecurrent | DirNetCell)}  # fmt: skip
    assert replaced.keys() == LAYERS[kind].keys()
    assert all(isinstance(replaced[name], owner) for name, owner in LAYERS[kind].items())
    assert type(model) is type(dense)  # nothing of ours but the layers
    report = json.loads((out / "compression.json").read_text())
    kept = sum(row["params"] for row in report["groups"])
    whole = sum(row["rows"] * row["columns"] for row in report["groups"])
    assert kept <= whole / 2.5 and kept > 0.8 * whole / 2.5
    assert sum(p.numel() for p in model.parameters()) == report["compressed"]["params"]
    # the same function as the stock model with the same weights
    config = yaml.safe_load((out / "config.yaml").read_text())
    task = {"l": "lm", "s": "slu"}.get(kind[0], "asr")
    batch = Utterances(task, config, root / "data", 2)[1]
    stock = with_dense_weights(model, dense)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**batch)[0], stock.eval()(**batch)[0], rtol=1e-5, atol=1e-5)
    # zeros of the codes stay, whatever the optimizer does
    coded = [module for module in model.modules() if isinstance(module, CodedMatrix)]
    before = [matrix.code_matrix().detach().clone() for matrix in coded]
    assert any(bool((codes == 0).any()) for codes in before)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    built, build = [], DirNetCell._factors
    monkeypatch.setattr(DirNetCell, "_factors", lambda cell: built.append(cell) or build(cell))
    model.train()(**batch)[0].sum().backward()
    assert len(built) == len({*built}) == sum(isinstance(layer, DirNetCell) for layer in replaced.values())
    optimizer.step()
    for matrix, codes in zip(coded, before, strict=True):
        after = matrix.code_matrix()
        assert torch.equal(after == 0, codes == 0) and not torch.equal(after, codes)


def asr_train(data: Path, *arguments: object) -> None:
    """ESPnet's own program on the Kaldi dir `data`, for one epoch."""
    files = []
    for option in ("train", "valid"):
        files += [f"--{option}_data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"]
        files += [f"--{option}_data_path_and_name_and_type", f"{data}/text,text,text"]
        files += [f"--{option}_shape_file", str(data / "speech_shape")]
    fixed = [
        "--max_epoch", "1", "--batch_type", "sorted", "--batch_size", "3", "--num_workers", "0", "--use_matplotlib",
        "false", "--use_tensorboard", "false", "--best_model_criterion", "valid,loss,min",
    ]  # fmt: skip
    task_of("asr").main(cmd=[*map(str, arguments), *files, *fixed])


def test_trained_from_scratch_by_espnet(root, tmp_path):
    """A configuration that a user writes: the stock encoder's layers with a quarter of their weights."""
    config = {
        "encoder": "dirnet_wrap", "encoder_conf": {"base": "vgg_rnn", "base_conf": {"hidden_size": 12}, "size": "4x"},
        "frontend_conf": FRONTEND, "model_conf": {"ctc_weight": 1.0, "report_cer": False, "report_wer": False},
        "token_type": "word", "token_list": str(root / "word_tokens.txt"), "normalize": None, "init": "xavier_uniform",
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    asr_train(root / "data", "--config", tmp_path / "train.yaml", "--output_dir", tmp_path / "exp")
    state = torch.load(tmp_path / "exp/valid.loss.best.pth", weights_only=True)
    assert len([key for key in state if key.endswith(".codes")]) == 4 * 3
    model = task_of("asr").build_model_from_file(tmp_path / "exp/config.yaml", tmp_path / "exp/valid.loss.best.pth")[0]
    assert model.state_dict().keys() == state.keys()


def test_fine_tuned_decoded_and_packed_by_espnet(root, small, program, tmp_path, monkeypatch):
    """The commands of the summary, with a BPE model and global statistics."""
    from espnet2.bin import asr_inference, pack

    out, data = small("blstmp_ctc_bpe"), root / "data"
    asr_train(data, "--config", out / "train.yaml", "--init_param", out / "model.pth", "--output_dir",
              tmp_path / "tuned")  # fmt: skip
    start = torch.load(out / "model.pth", weights_only=True)
    tuned = torch.load(tmp_path / "tuned/valid.loss.best.pth", weights_only=True)
    assert tuned.keys() == start.keys()
    assert all(torch.equal(tuned[key], start[key]) for key in start if key.endswith(".index"))
    assert any(not torch.equal(tuned[key], start[key]) for key in start if key.endswith(".codes"))
    distance = sum(float((tuned[key] - start[key]).abs().max()) for key in start if key.endswith(".codes"))
    assert distance < 0.1  # it went on from there: random codes would be far away

    (tmp_path / "moved").mkdir()
    for name in ("model.pth", "config.yaml", "bpe.model", "feats_stats.npz"):
        assert (out / name).exists(), name
    name = out.name
    pack.main(["asr", "--asr_train_config", f"{name}/config.yaml", "--asr_model_file", f"{name}/model.pth",
               "--option", f"{name}/bpe.model", "--option", f"{name}/feats_stats.npz",
               "--outpath", str(tmp_path / "moved/packed.zip")])  # fmt: skip
    before = (tmp_path / "moved/packed.zip").stat().st_size
    status, _, error = program(zoo.main, "compact", tmp_path / "moved/packed.zip")
    assert status == 0 and (tmp_path / "moved/packed.zip").stat().st_size < before - 1000, error
    away = root.with_name("away")
    root.rename(away)  # the package must not need what it was made of
    monkeypatch.chdir(tmp_path)
    try:
        speech, _ = soundfile.read(away / "data/utt3.wav")
        recognise = asr_inference.Speech2Text.from_pretrained(
            str(tmp_path / "moved/packed.zip"), ctc_weight=1.0, beam_size=2)  # fmt: skip
        text, tokens, *_ = recognise(speech)[0]
    finally:
        away.rename(root)
    monkeypatch.chdir(root)
    direct = asr_inference.Speech2Text(out / "config.yaml", out / "model.pth", ctc_weight=1.0, beam_size=2)
    assert recognise.tokenizer is not None and (text, tokens) == tuple(direct(speech)[0][:2])


def test_a_package_with_a_language_model_is_compacted(small, program, tmp_path, monkeypatch):
    from espnet2.bin import pack

    out, path = small("lm_lstm"), tmp_path / "lm.zip"
    monkeypatch.chdir(out)
    pack.main(["asr", "--lm_train_config", "config.yaml", "--lm_file", "model.pth", "--outpath", str(path)])
    before = path.stat().st_size
    status, _, error = program(zoo.main, "compact", path)
    assert status == 0 and path.stat().st_size < before, error
    status, shown, error = program(zoo.main, "check", path)
    assert status == 0 and "lm model of" in shown, error


def test_a_finished_run_is_left_alone_and_a_dry_run_writes_nothing(root, small, program, tmp_path):
    out = small("lm_lstm")
    arguments = ("--espnet", root / "lm_lstm", "--size", "2.5x", "--of", "recurrent", "--data", root / "data",
                 "--data_utts", 3)  # fmt: skip
    before = (out / "model.pth").stat().st_mtime_ns
    status, told, _ = program(main, *arguments, "--out", out)
    assert (status, (out / "model.pth").stat().st_mtime_ns) == (0, before) and "nothing to do" in told
    status, told, _ = program(main, *arguments, "--out", out, "--dry_run", "true")
    assert status == 0 and "lm.rnn.hidden_l0" in told and (out / "model.pth").stat().st_mtime_ns == before
    status, told, _ = program(main, *arguments, "--out", tmp_path / "none", "--dry_run", "true")
    assert status == 0 and "lm.rnn.hidden_l0" in told and not (tmp_path / "none").exists()
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/model.pth").write_bytes(b"days of work")
    status, _, error = program(main, *arguments, "--out", tmp_path / "trained")
    assert status == 2 and "holds a trained model (model.pth), which would be lost" in error
    assert (tmp_path / "trained/model.pth").read_bytes() == b"days of work"


def test_what_was_deleted_and_what_other_data_give_is_made_again(root, small, program, tmp_path):
    small("lm_lstm")
    data, out = tmp_path / "text", tmp_path / "out"
    shutil.copyfile(root / "data/text", data)
    arguments = ("--espnet", root / "lm_lstm", "--size", "1.3x", "--data", data, "--out", out)

    def again() -> bool:
        status, told, error = program(main, *arguments)
        assert status == 0, error
        return "nothing to do" not in told

    assert again() and not again()
    for name in ("model.pth", "config.yaml"):
        (out / name).unlink()
        assert again() and (out / name).exists() and not again()
    lines = data.read_text().splitlines()
    data.write_text("".join(f"{line} {line.split()[1]}\n" for line in lines))
    assert again() and not again()


def test_the_start_of_a_training_is_not_replaced(root, small, program, tmp_path):
    small("lm_lstm")
    options = ("--espnet", root / "lm_lstm", "--size", "1.3x", "--method", "svd", "--out", tmp_path / "svd/start")
    assert program(main, *options)[0] == program(main, *options, "--seed", 1)[0] == 0
    (tmp_path / "svd/checkpoint.pth").touch()
    status, _, error = program(main, *options, "--seed", 2)
    assert status == 2 and "holds a training that began with" in error and "made with another seed" in error


def test_killed_while_it_writes_it_begins_again(root, small, program, tmp_path, monkeypatch):
    """Never refused, and never taken for the other model whose report was there before."""
    small("lm_lstm")
    out = tmp_path / "out"

    def run(size: str) -> int:
        return program(main, "--espnet", root / "lm_lstm", "--size", size, "--method", "svd", "--out", out)[0]

    def killed(*_):
        raise KeyboardInterrupt

    picture = folder.picture
    monkeypatch.setattr(folder, "picture", killed)
    assert run("1.3x") == 130
    monkeypatch.setattr(folder, "picture", picture)
    assert run("1.3x") == 0
    whole = (out / "model.pth").read_bytes()
    monkeypatch.setattr(folder, "picture", killed)
    assert run("1.6x") == 130 and (out / "model.pth").read_bytes() != whole
    monkeypatch.setattr(folder, "picture", picture)
    assert run("1.3x") == 0 and (out / "model.pth").read_bytes() == whole


def test_the_dense_models_folder_is_not_written_to(root, small, program, tmp_path):
    small("lm_lstm")
    exp = shutil.copytree(root / "lm_lstm", tmp_path / "exp")
    before = {path.name: path.read_bytes() for path in exp.iterdir()}
    status, _, error = program(main, "--espnet", exp, "--size", "1.3x", "--method", "svd", "--out", exp)
    assert status == 2 and "holds a trained model (valid.loss.best.pth)" in error
    assert {path.name: path.read_bytes() for path in exp.iterdir()} == before


def test_data_that_a_method_does_not_read_is_told(root, small, program, tmp_path):
    small("lm_lstm")
    arguments = ("--espnet", root / "lm_lstm", "--size", "1.3x", "--method", "svd", "--dry_run", "true")
    status, _, error = program(main, *arguments, "--data", root / "data", "--out", tmp_path / "out")
    assert status == 0 and "is not read by method svd" in error


def test_the_summary_fits_a_screen_and_names_what_follows(root, program, tmp_path, small):
    small("lm_gru")
    text = root / "data/text"
    arguments = ("--espnet", f"{root}/lm_gru/config.yaml,{root}/lm_gru/valid.loss.best.pth", "--method", "svd")
    status, told, errors = program(main, *arguments, "--size", "1.3x", "--data", text, "--out", tmp_path / "out")
    assert status == 0, errors
    assert len(told.splitlines()) <= 24
    for word in ("lm_train", "--init_param", "lm_calc_perplexity", "pack", "lm.rnn"):
        assert word in told
    report = json.loads((tmp_path / "out/compression.json").read_text())
    assert report["ratio"] >= 1.3  # of the whole model
    train = yaml.safe_load((tmp_path / "out/train.yaml").read_text())
    whole = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert train["lm"] == "dirnet_wrap" == whole["lm"] and train["lm_conf"] == whole["lm_conf"]
    assert "output_dir" not in train and not any(key.endswith("name_and_type") for key in train)


def test_features_from_archives_and_what_a_data_folder_lacks(root, small, program, tmp_path):
    from dirnet.asr.ark import write_ark
    from dirnet.errors import UserError

    with write_ark(tmp_path / "feats.ark", tmp_path / "feats.scp") as ark:
        for number in range(4):
            ark.write(f"utt{number}", np.ones((20 + number, 8), np.float32))
    config = {**yaml.safe_load((root / "gru_ctc/config.yaml").read_text()), "input_size": 8} if (
        small("gru_ctc")) else {}  # fmt: skip
    (tmp_path / "text").write_text((root / "data/text").read_text())
    with pytest.raises(UserError, match=r"utterance utt4 cannot be read \('?utt4.* run fix_data_dir"):
        list(Utterances("asr", config, tmp_path, 100))
    (tmp_path / "text").write_text("".join(f"utt{number} TEN\n" for number in range(4)))
    batches = Utterances("asr", config, tmp_path, 100)
    assert [batch["speech"].shape for batch in batches] == [(1, 20 + number, 8) for number in range(4)]
    assert sorted(moved := [len(batch["speech"][0]) for batch in batches.shuffled(2)]) == [20, 21, 22, 23] != moved
    first, again = ([len(b["speech"][0]) for b in Utterances("asr", config, tmp_path, 2, seed=1)] for _ in "12")
    assert first == again
    (tmp_path / "wav.scp").write_text("".join(f"utt{number} {root}/data/utt{number}.wav\n" for number in range(4)))
    (root / "data/utt2.wav").rename(root / "data/away.wav")
    try:
        with pytest.raises(UserError, match=r"utterance utt2 cannot be read \(Error opening"):
            list(Utterances("asr", {**config, "input_size": None}, tmp_path, 100))
    finally:
        (root / "data/away.wav").rename(root / "data/utt2.wav")
    (tmp_path / "segments").write_text("")
    for data, fault in ((tmp_path, "segments"), (tmp_path / "no", "no/wav.scp does not exist")):
        with pytest.raises(UserError, match=fault):
            Utterances("asr", {**config, "input_size": None}, data, 2)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--size", "400x"), "out of reach"),
        (("--size", "rtf=0.1"), "acoustic model of ours"),
        (("--size", "2x", "--method", "small"), "method small is not for ESPnet's models"),
        (("--size", "2x", "--method", "prune_gradual"), "support: fixed"),
        (("--size", "2x", "--method", "dirnett"), "did you mean 'dirnet'"),
        (("--size", "2x", "--data_utts", "0"), "--data_utts is 0"),
        (("--size", "2x", "--block", "5"), "block 5 does not divide"),
    ],
)
def test_mistakes_are_one_line(options, fault, root, small, program, tmp_path):
    small("lm_gru")
    status, _, errors = program(main, "--espnet", root / "lm_gru", *options, "--out", tmp_path / "out")
    line = errors.strip().splitlines()[-1]
    assert status == 2 and fault in line and not (tmp_path / "out").exists(), errors


def test_a_model_without_recurrent_layers(root, program, tmp_path):
    source = make_model(root, "conformer")
    status, _, errors = program(main, "--espnet", source, "--size", "2x", "--out", tmp_path / "out")
    assert status == 2 and "has no nn.LSTM, nn.GRU or nn.RNN" in errors


def test_a_task_whose_model_is_no_choice(root, program, tmp_path):
    """The parts are wrapped, one by one."""
    source, out = make_model(root, "new_transducer"), tmp_path / "out"
    status, told, errors = program(main, "--espnet", source, "--size", "2x", "--of", "recurrent", "--method", "svd",
                                   "--out", out)  # fmt: skip
    assert status == 0 and "asr_transducer_train" in told and "pack asr --asr_train_config" in told, errors
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["decoder"], config["decoder_conf"]["base"]) == ("dirnet_wrap", "rnn")
    model = load(out, "new_transducer")
    assert [name for name, module in model.named_modules() if isinstance(module, DirNetRecurrent)] == ["decoder.rnn.0"]
    stock = with_dense_weights(model, load(source, "new_transducer"))
    labels = torch.tensor([[0, 1, 3]])
    torch.testing.assert_close(model.decoder(labels), stock.decoder(labels))


def test_data_that_the_model_refuses():
    class Refusing(nn.Module):
        def forward(self, speech):
            raise RuntimeError("input length mismatch\n  details")

    with pytest.raises(UserError, match=r"--data data/x: the model refuses an input, speech \(1, 2\) \(input length"):
        check_reads(Refusing(), {"speech": torch.zeros(1, 2)}, Path("data/x"))


def test_all_kinds_are_tried():
    assert KINDS.keys() == LAYERS.keys() | {"conformer", "new_transducer"}
