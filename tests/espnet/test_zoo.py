"""`dirnet zoo`: packages are loaded strictly, and sent to a hub, for which a server on this machine stands in."""

from __future__ import annotations

import base64
import http.server
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

from dirnet.espnet import zoo
from dirnet.espnet.pack import pack

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
