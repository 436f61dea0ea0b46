"""`dirnet zoo`: packages are loaded strictly, and sent to a hub, for which a server on this machine stands in."""

from __future__ import annotations

import base64
import http.server
import io
import json
import re
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dirnet.espnet import checkpoint, zoo
from dirnet.espnet.pack import pack
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig

REPO = "someone/small_model"


@pytest.fixture(scope="module")
def package(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("zoo") / "model.zip"
    pack(trained.exp, trained.root / "data/lang", out)
    return out


@pytest.fixture
def changed(package, tmp_path):
    """`changed(state=..., config=..., drop=...) -> zip`: the package with its state dict or configuration edited."""

    def write(state=None, config=None, drop: str | None = None) -> Path:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(tmp_path / "content")
        if state:
            values = torch.load(tmp_path / "content/model.pth")
            torch.save(state(values), tmp_path / "content/model.pth")
        if config:
            path = tmp_path / "content/config.yaml"
            path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **config}))
        if drop:
            (tmp_path / "content" / drop).unlink()
        return Path(shutil.make_archive(str(tmp_path / "changed"), "zip", tmp_path / "content"))

    return write


class Hub(http.server.BaseHTTPRequestHandler):
    """The four calls of the hub's protocol that an upload of small files makes."""

    def answer(self, content, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer({"id": REPO, "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer({"url": f"{self.server.address}/{REPO}", "id": REPO})
        elif self.path.startswith(f"/api/models/{REPO}/preupload/"):
            files, mode = json.loads(body)["files"], {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{**mode, "path": file["path"]} for file in files]})
        elif self.path.startswith(f"/api/models/{REPO}/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitUrl": f"{self.server.address}/{REPO}/commit/{'0' * 40}", "commitOid": "0" * 40}
            self.answer({"success": True, **commit})
        else:
            self.answer({}, 404 if "validate-yaml" not in self.path else 200)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.address = {}, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)  # read from there when first imported
    yield server
    server.shutdown()
    server.server_close()


def test_a_whole_package(package, program):
    status, shown, error = program(zoo.main, "check", package)
    assert status == 0 and "asr model of" in shown and "every key in its place" in shown, error


@pytest.mark.parametrize(
    "edit, message",
    [
        ({"state": lambda s: {k: s[k] for k in s if "bias_hh_l1" not in k}}, "encoder.rnn.bias_hh_l1 is missing"),
        ({"state": lambda s: {**s, "encoder.extra": torch.zeros(1)}}, "encoder.extra is unknown"),
        ({"config": {"encoder_conf": {"hidden_size": 25, "num_layers": 2}}}, r"\[96, 494\] there, \[100, 494\] here"),
        ({"config": {"encoder": "no_such"}}, "--encoder no_such; install what defines that class"),
        ({"drop": "meta.yaml"}, "has no meta.yaml"),
    ],
)
def test_a_package_that_is_not_what_it_says(changed, program, edit, message):
    path = changed(**edit)
    status, _, error = program(zoo.main, "check", path)
    assert status == 2 and error.count("\n") == 1 and str(path) in error
    assert re.search(message, error), error


@pytest.mark.parametrize("key", ["stats_file", "bpemodel", "extra"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_package_that_lacks_a_file_is_not_whole_where_it_was_made_either(
    changed, program, tmp_path, monkeypatch, key, absolute
):
    monkeypatch.chdir(tmp_path)
    np.savez("stats.npz", count=1.0, sum=np.zeros(26), sum_square=np.ones(26))
    name = str(tmp_path / "stats.npz" if absolute else "stats.npz")
    config = {"stats_file": {"normalize_conf": {"stats_file": name}}, "bpemodel": {"bpemodel": name},
              "extra": {"frontend_conf": {"deep": {"extra": name}}}}[key]  # fmt: skip
    path = changed(config=config)
    status, _, error = program(zoo.main, "check", path)
    assert status == 2 and error.count("\n") == 1
    assert f"{path}: {key} of config.yaml is {name}, which is not in the package; pack it again with --option" in error


@pytest.fixture(scope="module", params=["float32", "int8"])
def compressed(request, tmp_path_factory):
    """(folder of a compressed model, its package of stage 9)."""
    folder, shape = tmp_path_factory.mktemp(request.param), {"phones": ("<blank>", *"abc"), "num_outputs": 4}
    layout = ([30, 700], [20, 400], [20, None], [12, 500])
    config = AcousticModelConfig("lstm", 48, 3, compression=layout, dtype=request.param, **shape)
    torch.manual_seed(0)
    storage.save(AcousticModel(config), folder)
    pack(folder, folder, folder / "model.zip")
    return folder, folder / "model.zip"


def weights(path: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(path) as archive:
        return torch.load(io.BytesIO(archive.read("model.pth")))


def with_weights(package: Path, state: dict[str, torch.Tensor], path: Path) -> Path:
    """`package` with other weights, at `path`."""
    stream = io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, stream.getvalue() if name == "model.pth" else old.read(name))
    return path


def test_a_package_has_the_bytes_that_the_compression_told(compressed):
    folder, path = compressed
    model, state = storage.load(folder), weights(path)
    outputs = 2 * 49 * 4  # that never win, for ESPnet's two tokens more
    assert sum(value.numel() * value.element_size() for value in state.values()) <= (
        storage.stored_bytes(model) + outputs + 2 * 4 * len(model.cmvn_mean)
    )
    assert "encoder.rnn.groups.0.index" not in state


def test_espnets_own_loader_reads_stored_tensors(compressed, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.main_funcs.pack_funcs import unpack

    folder, path = compressed
    recognise = Speech2Text(**unpack(path, tmp_path), ctc_weight=1.0, lm_weight=0.0, beam_size=5)
    pairs = zip(recognise.asr_model.encoder.rnn.groups, storage.load(folder).rnn.groups, strict=True)
    assert all(torch.equal(theirs.matrix(), ours.matrix()) for theirs, ours in pairs)


def test_what_espnets_packer_wrote_becomes_as_small(compressed, program, tmp_path):
    """ESPnet's packer takes checkpoints as they are: places as integers, int8 values as floats."""
    folder, ours = compressed
    path = with_weights(ours, checkpoint.espnet_state(storage.load(folder), 6), tmp_path / "espnet.zip")
    before = path.stat().st_size
    for _ in "12":  # a second time changes nothing
        status, shown, error = program(zoo.main, "compact", path)
        assert status == 0 and f"{path}: {path.stat().st_size:,} bytes, before " in shown, error
        assert before > path.stat().st_size <= ours.stat().st_size + 2000
        found, expected = weights(path), weights(ours)
        assert all(torch.equal(found[name], value) for name, value in expected.items() if name in found)
        assert found.keys() == expected.keys()
    assert program(zoo.main, "check", path)[0] == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and "config.yaml" in archive.namelist()


def test_a_package_that_is_not_whole_is_not_compacted(changed, program):
    path = changed(state=lambda s: {k: s[k] for k in s if "bias_hh_l1" not in k})
    before = path.read_bytes()
    status, _, error = program(zoo.main, "compact", path)
    assert status == 2 and "encoder.rnn.bias_hh_l1 is missing" in error and path.read_bytes() == before


def test_stored_tensors_that_are_damaged_are_named(compressed, program, tmp_path):
    _, ours = compressed
    state = weights(ours)
    state["encoder.rnn.groups.0.codes"] = state["encoder.rnn.groups.0.codes"][:-1]
    path = with_weights(ours, state, tmp_path / "damaged.zip")
    status, _, error = program(zoo.main, "check", path)
    assert status == 2 and error.count("\n") == 1 and f"{path}: encoder.rnn.groups.0: tensor codes is" in error


def test_what_is_no_zip(tmp_path, package, program):
    assert "does not exist" in program(zoo.main, "check", tmp_path / "none.zip")[2]
    cut = tmp_path / "cut.zip"
    cut.write_bytes(package.read_bytes()[:1000])
    assert "is no whole zip" in program(zoo.main, "check", cut)[2]


@pytest.mark.parametrize("meta", ["[1]", "yaml_files: {}", "a: ["])
def test_a_damaged_list_of_contents(tmp_path, program, meta):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr("meta.yaml", meta)
    status, _, error = program(zoo.main, "check", tmp_path / "odd.zip")
    assert status == 2 and "odd.zip is no whole ESPnet package" in error and error.count("\n") == 1


def test_a_dry_run_tells_everything_and_sends_nothing(package, program, hub):
    status, shown, _ = program(zoo.main, "upload", package, "--repo", REPO)
    assert status == 0 and not hub.files and "nothing was sent" in shown
    with zipfile.ZipFile(package) as archive:
        for entry in archive.infolist():
            assert f"{entry.file_size:>12,} bytes  {entry.filename}\n" in shown
        assert archive.read("README.md").decode().splitlines()[0] == "---"
    assert "  - automatic-speech-recognition" in shown


def test_the_hub_gets_the_unpacked_zip(package, program, hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "secret")
    own = tmp_path / "card.md"
    own.write_text("---\nlicense: cc0-1.0\n---\nmine\n")
    options = ("--repo", REPO, "--dry_run", "false", "--private", "true", "--card", own)
    status, shown, error = program(zoo.main, "upload", package, *options)
    assert status == 0 and f"sent: {hub.address}/{REPO}" in shown, error
    assert hub.created["name"] == "small_model" and hub.created.get("private", hub.created.get("visibility"))
    with zipfile.ZipFile(package) as archive:
        expected = {name: archive.read(name) for name in archive.namelist()}
    assert hub.files == {**expected, "README.md": own.read_bytes()}


def test_mistakes_of_an_upload_are_one_line(package, program, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    options = ("upload", package, "--repo", REPO, "--dry_run", "false")
    assert program(zoo.main, *options)[2].count("HF_TOKEN is not set; put a token") == 1
    monkeypatch.setenv("HF_TOKEN", "wrong")
    status, _, error = program(zoo.main, *options)
    assert status == 2 and "the hub refused" in error and "401" in error and not hub.files
    assert "expected USER/NAME" in program(zoo.main, "upload", package, "--repo", "name")[2]
