"""The download against a real server on the loopback: resumed, checked, extracted once."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import re
import ssl
import tarfile
import threading
import time

import pytest

PARTS = ("dev-clean", "train-clean-100")
LEXICON = b"A AH0\nABLE EY1 B AH0 L\n" * 2000
ARPA = gzip.compress(b"\\data\\\nngram 1=2\n" * 5000, mtime=0)


def archive(part: str) -> bytes:
    """A part as OpenSLR packs it: LibriSpeech/SPEAKERS.TXT and LibriSpeech/PART/SPEAKER/CHAPTER/..."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        files = {"SPEAKERS.TXT": b"; speakers\n", f"{part}/7/8/7-8.trans.txt": b"7-8-0000 HELLO\n"}
        noise = hashlib.shake_256(part.encode()).digest(300_000)  # does not compress
        for name, content in {**files, f"{part}/7/8/7-8-0000.flac": noise}.items():
            info = tarfile.TarInfo(f"LibriSpeech/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.cut[path]` lists after how many bytes the next answers break off."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.errors.get(self.path):
            return self.send_error(server.errors[self.path].pop(0))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = 0
        if asked and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cuts = server.cut.get(self.path)
        self.wfile.write(body[: cuts.pop(0)] if cuts else body)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files = {f"/12/{part}.tar.gz": archive(part) for part in PARTS}
        digests = {part: hashlib.md5(server.files[f"/12/{part}.tar.gz"]).hexdigest() for part in PARTS}
        sums = "".join(f"{digests[part]}  {part}.tar.gz\n" for part in PARTS)
        server.files |= {
            "/12/md5sum.txt": sums.encode(),
            "/11/librispeech-lexicon.txt": LEXICON,
            "/11/3-gram.pruned.1e-7.arpa.gz": ARPA,
        }
        server.requests, server.cut, server.errors, server.ranges = [], {}, {}, True
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def download(server, script, program, tmp_path, monkeypatch):
    module = script("local/librispeech_download.py")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")
    fixed = ("--url", f"http://127.0.0.1:{server.server_port}", "--out", tmp_path / "downloads", "--retries", "2")
    return lambda *options: program(module.main, *fixed, "--parts", " ".join(PARTS), *options)


def test_everything_arrives_and_a_rerun_asks_for_nothing(server, download, tmp_path):
    out = tmp_path / "downloads"
    status, said, _ = download()
    assert status == 0 and "md5 agrees" in said
    for part in PARTS:
        assert (out / "LibriSpeech" / part / "7" / "8" / "7-8.trans.txt").read_text() == "7-8-0000 HELLO\n"
    assert (out / "LibriSpeech" / "SPEAKERS.TXT").is_file()
    assert (out / "librispeech-lexicon.txt").read_bytes() == LEXICON
    assert gzip.decompress((out / "3-gram.pruned.1e-7.arpa.gz").read_bytes()) == gzip.decompress(ARPA)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") or path.suffix == ".part"]
    server.requests.clear()
    assert download()[1] == f"{out}: already done\n"
    assert server.requests == []


def test_a_broken_download_goes_on_where_it_ended(server, download, tmp_path):
    path = "/12/train-clean-100.tar.gz"
    server.cut[path] = [100_000, 50_000]
    status, said, _ = download()
    assert status == 0 and "broke off at 100000 bytes" in said and "broke off at 150000 bytes" in said
    assert [asked for name, asked in server.requests if name == path] == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "downloads" / "LibriSpeech" / "train-clean-100").is_dir()


def test_a_failure_of_the_encryption_is_a_broken_connection_too(server, download, monkeypatch):
    import downloading

    real, whole = downloading.request, server.files["/12/dev-clean.tar.gz"]

    def request(url, headers=None):
        response = real(url, headers)
        if url.endswith("dev-clean.tar.gz") and not headers:
            read, parts = response.read, [100_000]
            response.read = lambda size: read(parts.pop()) if parts else fail()
        return response

    def fail():
        raise ssl.SSLError("record layer failure")

    monkeypatch.setattr(downloading, "request", request)
    status, said, _ = download()
    assert status == 0 and "broke off at 100000 bytes" in said and len(whole) > 100_000


def test_a_download_given_up_goes_on_in_the_next_run(server, download, tmp_path):
    path = "/12/dev-clean.tar.gz"
    server.cut[path] = [70_000, 0, 0, 0]
    status, _, error = download()
    assert status == 2 and "broke off at 70000 bytes" in error and len(error.splitlines()) == 1
    assert (tmp_path / "downloads" / "dev-clean.tar.gz.part").stat().st_size == 70_000
    assert not (tmp_path / "downloads" / "LibriSpeech").exists()
    server.cut.clear(), server.requests.clear()
    status, said, _ = download()
    assert status == 0 and "70000 bytes are there, going on" in said
    assert (path, "bytes=70000-") in server.requests


def test_a_server_without_ranges_sends_the_whole_file_again(server, download):
    server.ranges = False
    server.cut["/12/dev-clean.tar.gz"] = [70_000]
    assert download()[0] == 0


def test_a_part_that_is_complete_but_not_renamed(server, download, tmp_path):
    out = tmp_path / "downloads"
    out.mkdir()
    (out / "dev-clean.tar.gz.part").write_bytes(server.files["/12/dev-clean.tar.gz"])
    assert download()[0] == 0 and (out / "LibriSpeech" / "dev-clean").is_dir()


def test_a_part_longer_than_the_servers_file_starts_again(server, download, tmp_path):
    out = tmp_path / "downloads"
    out.mkdir()
    (out / "dev-clean.tar.gz.part").write_bytes(server.files["/12/dev-clean.tar.gz"] + b"more")
    assert download()[0] == 0 and (out / "LibriSpeech" / "dev-clean").is_dir()


def test_a_wrong_checksum_is_an_error_and_the_file_kept_aside(server, download, tmp_path):
    out, whole = tmp_path / "downloads", server.files["/12/dev-clean.tar.gz"]
    server.files["/12/dev-clean.tar.gz"] = whole[:-10] + b"0123456789"
    status, _, error = download()
    assert status == 2 and "dev-clean.tar.gz is damaged (its md5 is" in error and len(error.splitlines()) == 1
    assert {path.name for path in out.iterdir()} == {"dev-clean.tar.gz.corrupt"}
    server.files["/12/dev-clean.tar.gz"] = whole
    assert download()[0] == 0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("3-gram.pruned.1e-7.arpa.gz", ARPA[:-20], "arpa.gz is damaged"),
        ("librispeech-lexicon.txt", b"<html>sorry</html>\n", "it is a web page"),
        ("librispeech-lexicon.txt", b"A AH0\nABL", "its last line has no end"),
    ],
)
def test_files_without_published_checksum_must_be_whole(server, download, tmp_path, name, content, expected):
    server.files[f"/11/{name}"] = content
    status, _, error = download()
    assert status == 2 and expected in error and not (tmp_path / "downloads" / name).exists()


def test_a_published_checksum_of_the_language_model_is_used(server, download):
    server.files["/11/md5sum.txt"] = b"0" * 32 + b"  librispeech-lexicon.txt\n"
    assert "librispeech-lexicon.txt is damaged" in download()[2]


def test_a_busy_server_is_asked_again(server, download):
    server.errors["/12/dev-clean.tar.gz"] = [503, 502]
    assert download()[0] == 0


def test_extraction_that_was_killed_is_begun_again(download, tmp_path):
    left = tmp_path / "downloads" / ".extracting-dev-clean" / "LibriSpeech" / "dev-clean" / "half"
    left.mkdir(parents=True)
    assert download()[0] == 0
    assert not (tmp_path / "downloads" / "LibriSpeech" / "dev-clean" / "half").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_extracted_after_a_full_disk_or_ctrl_c(download, tmp_path, monkeypatch, error):
    real, written = tarfile.copyfileobj, []

    def copy(*arguments, **options):
        written.append(1)
        if len(written) == 3:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(tarfile, "copyfileobj", copy)
    assert download()[0] == (130 if isinstance(error, KeyboardInterrupt) else 2)
    out = tmp_path / "downloads"
    assert {path.name for path in out.iterdir()} == {"dev-clean.tar.gz"}
    monkeypatch.undo()
    assert download()[0] == 0


def test_archives_are_removed_on_request(download, tmp_path):
    assert download("--remove_archives", "true")[0] == 0
    assert not list((tmp_path / "downloads").glob("*.tar.gz"))
    assert "already done" in download("--remove_archives", "true")[1]


def test_mistakes(server, download):
    status, _, error = download("--parts", "train-clean-10")
    assert status == 2 and "did you mean 'train-clean-100'?" in error
    status, _, error = download("--url", "www.openslr.org/resources")
    assert status == 2 and "www.openslr.org/resources/12/md5sum.txt is no address" in error
    status, _, error = download("--parts", "test-other")
    assert status == 2 and "md5sum.txt has no line for test-other.tar.gz" in error
    status, _, error = download("--lm", "3-gram.pruned.3e-7")
    assert status == 2 and "answers 404" in error
    server.shutdown()
    server.server_close()
    status, _, error = download()
    assert status == 2 and "cannot be reached" in error
