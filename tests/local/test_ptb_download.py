"""The download of the three files against a server on the loopback."""

from __future__ import annotations

import hashlib
import threading
from http.server import ThreadingHTTPServer

import pytest
from test_librispeech_download import Handler

FILES = {f"ptb.{name}.txt": f" {name} text \n".encode() * 5000 for name in ("train", "valid", "test")}


@pytest.fixture
def download(script, program, tmp_path, monkeypatch):
    """Run the program with a server of FILES; `download.server` has its `requests`, `cut` and `files`."""
    module = script("local/ptb_download.py")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(module, "SHA256", {name: hashlib.sha256(text).hexdigest() for name, text in FILES.items()})
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files = {f"/{name}": text for name, text in FILES.items()}
        server.requests, server.cut, server.errors, server.ranges = [], {}, {}, True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"

        def run():
            return program(module.main, "--url", url, "--out", tmp_path / "downloads", "--retries", "1")

        run.server = server
        yield run
        server.shutdown()


def test_broken_downloads_go_on_and_a_rerun_asks_for_nothing(download, tmp_path):
    download.server.cut["/ptb.train.txt"] = [20_000]
    status, said, error = download()
    assert status == 0, error
    assert "broke off at 20000 bytes" in said and ("/ptb.train.txt", "bytes=20000-") in download.server.requests
    assert {path.name: path.read_bytes() for path in (tmp_path / "downloads").iterdir()} == FILES
    download.server.requests.clear()
    assert download()[0] == 0 and download.server.requests == []


def test_another_text_is_refused(download, tmp_path):
    download.server.files["/ptb.valid.txt"] = b"something else\n"
    status, _, error = download()
    assert status == 2 and "ptb.valid.txt is damaged (its sha256 is" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "downloads/ptb.valid.txt").exists()
    assert (tmp_path / "downloads/ptb.valid.txt.corrupt").exists()


def test_the_known_sums_are_those_of_the_published_files(script):
    sums = script("local/ptb_download.py").SHA256
    assert list(sums) == ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"]
    assert all(len(value) == 64 for value in sums.values())
