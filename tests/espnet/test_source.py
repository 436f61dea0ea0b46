"""What may be wrong with a model that a user wants compressed: one line each, that names it and what to do."""

from __future__ import annotations

import os
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from stock_models import make_data, make_model
from torch import nn

from dirnet.errors import UserError
from dirnet.espnet import source, versions
from dirnet.espnet.source import find


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    make_data(folder)
    make_model(folder, "blstmp_ctc_bpe")
    make_model(folder, "lm_lstm")
    return folder


def changed(root: Path, folder: Path, kind: str = "blstmp_ctc_bpe", **values) -> Path:
    """A copy of the model `kind` with other values in its config."""
    config = yaml.safe_load((root / kind / "config.yaml").read_text())
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **values}))
    (folder / "valid.loss.best.pth").write_bytes((root / kind / "valid.loss.best.pth").read_bytes())
    return folder


def refused(text: object, fault: str, build: bool = False) -> None:
    with pytest.raises(UserError, match=fault) as found:
        model = find(str(text))
        if build:
            model.build()
    assert len(str(found.value)) < 700


def packed(root: Path, path: Path) -> Path:
    """The model `blstmp_ctc_bpe` as a package."""
    from espnet2.bin import pack

    folder = root / "blstmp_ctc_bpe"
    pack.main(["asr", "--asr_train_config", str(folder / "config.yaml"), "--asr_model_file",
               str(folder / "valid.loss.best.pth"), "--option", str(root / "bpe.model"),
               "--option", str(root / "feats_stats.npz"), "--outpath", str(path)])  # fmt: skip
    return path


def test_the_three_ways_to_name_a_model_give_the_same(root, tmp_path):
    folder = root / "blstmp_ctc_bpe"
    by_folder, by_files = find(str(folder)), find(f"{folder}/config.yaml,{folder}/valid.loss.best.pth")
    assert by_folder == by_files and by_folder.task == "asr"
    assert {path.name for path in by_folder.files.values()} == {"bpe.model", "feats_stats.npz"}
    by_package = find(str(packed(root, tmp_path / "packed.zip")))
    models = [one.build() for one in (by_folder, by_package)]
    assert type(models[0]) is type(models[1]) and not models[0].training
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))
    assert find(str(root / "lm_lstm")).task == "lm"


def test_a_package_is_unpacked_once_for_all_who_ask_for_it(root, tmp_path, monkeypatch):
    """Jobs of an array do: one would read what another one is writing."""
    path, unpacked = packed(root, tmp_path / "packed.zip"), []
    unpack = source.unpack

    def slowly(*arguments):
        unpacked.append(arguments)
        time.sleep(0.3)
        return unpack(*arguments)

    monkeypatch.setattr(source, "unpack", slowly)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(find, [str(path)] * 3))
    assert found[0] == found[1] == found[2] and len(unpacked) == 1
    monkeypatch.chdir(tmp_path)
    assert find("packed.zip") == found[0] and len(unpacked) == 1
    os.utime(path, (1, 1))  # as if it were another one
    assert find("packed.zip") == found[0] and len(unpacked) == 2


def test_relative_paths_hold_from_the_recipe_as_in_espnet(root, tmp_path):
    exp = tmp_path / "exp"
    exp.mkdir()
    folder = changed(root, exp / "asr", bpemodel="data/bpe.model")
    refused(folder, "bpemodel data/bpe.model does not exist")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/bpe.model").write_bytes((root / "bpe.model").read_bytes())
    assert find(str(folder)).files["data/bpe.model"] == tmp_path / "data/bpe.model"
    changed(root, folder, normalize_conf={"stats_file": "exp/stats/train/feats_stats.npz"}, bpemodel=None)
    refused(folder, "stats_file exp/stats/train/feats_stats.npz does not exist")


def test_files_that_are_missing_or_no_model(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = root / "blstmp_ctc_bpe/config.yaml"
    refused("no.yaml,no.pth", "no.yaml does not exist; give an ESPnet experiment folder")
    refused(f"{config},no.pth", "no.pth does not exist")
    refused(config, "one file of two")
    refused("no.zip", "no.zip does not exist")
    refused("./no", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has not one model to compress, but: none")
    folder = changed(root, tmp_path / "several")
    (folder / "valid.loss.best.pth").rename(folder / "1epoch.pth")
    (folder / "2epoch.pth").write_bytes(b"")
    refused(folder, "1epoch.pth, 2epoch.pth")
    Path("other.yaml").write_text("tts: tacotron2\n")
    refused(f"other.yaml,{folder}/1epoch.pth", "not the config.yaml of a trained model of the tasks lm, asr_transducer")


@pytest.mark.parametrize("taken, others", [
    ("valid.acc.ave.pth", ["valid.acc.best.pth", "valid.acc.ave_10best.pth", "train.loss.ave.pth", "7epoch.pth"]),
    ("valid.acc.ave_5best.pth", ["valid.acc.best.pth", "valid.loss.best.pth"]),
    ("valid.acc.best.pth", ["checkpoint.pth", "checkpoint.previous.pth", "model.pth", "7epoch.pth"]),
    ("model.pth", ["checkpoint.pth", "checkpoint.previous.pth"]),
    ("model.pth", ["model.json", "valid.loss_ctc.best.pth", "initial.pth", "valid.acc.ave.pth"]),
])  # fmt: skip
def test_of_several_checkpoints_the_mean_is_taken_and_told(tmp_path, capsys, taken, others):
    (tmp_path / "config.yaml").write_text("encoder: rnn\ntoken_list: [a]\n")
    for name in (taken, *others):
        (tmp_path / name).touch()
    assert find(str(tmp_path)).model == tmp_path / taken
    assert capsys.readouterr().out == f"{tmp_path}: taking {taken}\n"


def test_of_equal_checkpoints_none_is_taken(tmp_path):
    for name in ("valid.acc.ave.pth", "valid.loss.ave.pth", "valid.acc.best.pth"):
        (tmp_path / name).touch()
    refused(tmp_path, "has not one model to compress, but: valid.acc.ave.pth, valid.loss.ave.pth; give .*yaml,MODEL")


def test_damaged_packages_and_checkpoints(root, tmp_path):
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and then nothing")
    refused(broken, "no whole ESPnet package")
    assert list(tmp_path.iterdir()) == [broken]
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("README", "")
    refused(tmp_path / "empty.zip", "not found meta.yaml")
    with zipfile.ZipFile(tmp_path / "tts.zip", "w") as archive:
        meta = {"yaml_files": {"train_config": "c"}, "files": {"model_file": "m"}}
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
    refused(tmp_path / "tts.zip", "holds model_file, train_config, expected a model for recognition")
    (tmp_path / "model.gz").write_bytes(b"of no kind that ESPnet packs")
    refused(tmp_path / "model.gz", "Cannot detect archive format")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        meta = {"yaml_files": {"asr_train_config": "../../out.yaml"}, "files": {"asr_model_file": "m"}}
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
        archive.writestr("../../out.yaml", "a: 1")
    refused(tmp_path / "out.zip", "out.yaml may lead out of its folder")
    assert not (tmp_path.parent / "out.yaml").exists()
    folder = changed(root, tmp_path / "torn")
    weights = folder / "valid.loss.best.pth"
    weights.write_bytes(weights.read_bytes()[:-200])
    refused(folder, "cannot be read", build=True)


def test_weights_are_loaded_strictly(root, tmp_path):
    """ESPnet loads them with strict=False and says nothing."""
    folder = changed(root, tmp_path / "strict")
    weights = folder / "valid.loss.best.pth"
    state = torch.load(weights, weights_only=True)
    lost = state.pop("encoder.enc.0.birnn1.weight_hh_l0")
    state["encoder.enc.0.birnn7.weight_hh_l0"] = lost
    torch.save(state, weights)
    refused(folder, "birnn1.weight_hh_l0 is missing; encoder.enc.0.birnn7.weight_hh_l0 is unknown", build=True)


def test_quantised_models(root, tmp_path):
    folder = changed(root, tmp_path / "quantised")
    for kind in (nn.LSTM, nn.Linear):
        dense = nn.ModuleDict({"rnn": nn.LSTM(4, 4), "out": nn.Linear(4, 4)})
        small = torch.ao.quantization.quantize_dynamic(dense, {kind}, dtype=torch.qint8)
        torch.save(small.state_dict(), folder / "valid.loss.best.pth")
        refused(folder, "is quantised; give the float model", build=True)


def test_configs_that_do_not_fit_the_installation(root, tmp_path, monkeypatch):
    refused(changed(root, tmp_path / "a", encoder="my_rnn"), "--encoder must be one of.*install what defines", True)
    unknown = changed(root, tmp_path / "b", encoder_conf={"hidden_units": 3}, version="201901")
    refused(unknown, r"made by ESPnet 201901\) does not fit the installed ESPnet 20.*hidden_units", build=True)
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", None)
    missing = changed(root, tmp_path / "c", decoder="transducer", model_conf={}, joint_net_conf={})
    refused(missing, "needs a module that is not installed .*warprnnt_pytorch", build=True)
    for version, told in (("202301", "ESPnet is 202301"), (None, "ESPnet is not installed")):
        monkeypatch.setattr(versions, "found", lambda version=version: version)
        refused(root / "blstmp_ctc_bpe", f"{told}, expected ESPnet 202511 on Python 3.11", build=True)


def test_the_zoo_is_asked_for_what_is_no_file(root, tmp_path, monkeypatch):
    folder = root / "blstmp_ctc_bpe"
    asked = []

    class Zoo:
        def download_and_unpack(self, tag):
            asked.append(tag)
            if "no" in tag:
                raise OSError("[Errno -2] Name or service not known")
            return {"asr_train_config": str(folder / "config.yaml"),
                    "asr_model_file": str(folder / "valid.loss.best.pth")}  # fmt: skip

    import espnet_model_zoo.downloader

    monkeypatch.setattr(espnet_model_zoo.downloader, "ModelDownloader", Zoo)
    assert find("espnet/some_model").model == folder / "valid.loss.best.pth"
    refused("espnet/no_model", "espnet/no_model is no file, and the model zoo does not give it .*not known")
    assert asked == ["espnet/some_model", "espnet/no_model"]
