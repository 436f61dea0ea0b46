"""Downloads that go on where they broke off; what they fetch gets its name only once it is checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from dirnet.errors import UserError

BLOCK = 1 << 20
LOG_EVERY_S = 30


def complete(url: str, partial: Path, retries: int) -> None:
    """Complete `partial`; a connection that breaks is taken up again, `retries` times without any progress."""
    failures, size = 0, partial.stat().st_size if partial.exists() else 0
    if size:
        print(f"{partial}: {size} bytes are there, going on", flush=True)
    while True:
        try:
            return _receive(url, partial)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(f"{url} answers {error.code} {error.reason}; check --url and the name") from None
            reason = f"{error.code} {error.reason}"
        except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error))
        now = partial.stat().st_size if partial.exists() else 0
        failures = 0 if now > size else failures + 1
        size = now
        if failures > retries:
            raise UserError(f"{url} broke off at {size} bytes ({reason}); run it again to go on from there")
        print(f"{url}: broke off at {size} bytes ({reason}), going on", flush=True)
        time.sleep(min(failures * 2, 30))


def keep(partial: Path, target: Path, wrong: str, mirror: str) -> None:
    """Give `partial` the name `target`; with something `wrong` it becomes NAME.corrupt, and a `UserError` says so."""
    if wrong:
        corrupt = target.with_name(f"{target.name}.corrupt")
        os.replace(partial, corrupt)
        raise UserError(f"{target.name} is damaged ({wrong}); kept as {corrupt}, run it again or {mirror}")
    os.replace(partial, target)


def digest(path: Path, kind: str) -> str:
    """The md5 or sha256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def _receive(url: str, partial: Path) -> None:
    """One request for what `partial` lacks, appended to it; a `ConnectionError` when less came than announced."""
    have = partial.stat().st_size if partial.exists() else 0
    try:
        response = request(url, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return  # the last request broke off after the last byte
        partial.unlink()
        raise ConnectionError("the server's file is shorter than what was there, from the start") from None
    with response:
        if response.status != 206:
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        told = time.monotonic()
        with open(partial, "ab" if have else "wb") as stream:
            while block := response.read(BLOCK):
                stream.write(block)
                have += len(block)
                if time.monotonic() - told > LOG_EVERY_S:
                    told = time.monotonic()
                    print(f"{partial.stem}: {have >> 20} of {(total or 0) >> 20} MB", flush=True)
        if total is not None and have < total:
            raise ConnectionError(f"{total - have} bytes are missing")


def request(url: str, headers: dict[str, str] | None = None):
    """The server's response; a `UserError` where `url` is none."""
    try:
        asked = urllib.request.Request(url, headers={"User-Agent": "dirnet", **(headers or {})})
    except ValueError:
        raise UserError(f"{url} is no address, expected https://...; correct --url") from None
    return urllib.request.urlopen(asked, timeout=60)
