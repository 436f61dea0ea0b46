#!/usr/bin/env python3
"""Download LibriSpeech (OpenSLR 12), its lexicon and its pruned 3-gram (OpenSLR 11), and extract the corpus.

An interrupted download goes on where it ended. It is checked with the md5sum.txt of the server before it is extracted;
what is extracted is never fetched or extracted again, and an archive put into OUT is taken as it is. Leaves
OUT/LibriSpeech/PART, OUT/librispeech-lexicon.txt and OUT/3-gram.pruned.1e-7.arpa.gz.
"""

from __future__ import annotations

import gzip
import http.client
import os
import shutil
import tarfile
import urllib.error
import zlib
from collections.abc import Callable
from pathlib import Path

import downloading

from dirnet.config import boolean
from dirnet.errors import UserError, did_you_mean, one_line_errors
from dirnet.options import Parser

URL = "https://www.openslr.org/resources"
PARTS = (
    "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other"
)  # fmt: skip
LEXICON = "librispeech-lexicon.txt"
MODELS = ("3-gram.pruned.1e-7", "3-gram.pruned.3e-7")
BLOCK = 1 << 20


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Download what OUT lacks."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", default="downloads", type=Path)
    parser.add_argument("--parts", default=" ".join(PARTS), help="parts of the corpus, separated by blanks")
    parser.add_argument("--lm", default=MODELS[0], choices=MODELS, help="pruning of the 3-gram")
    parser.add_argument("--url", default=URL, help="a mirror with the folders 11 and 12")
    parser.add_argument("--retries", type=int, default=5, help="how often a broken connection is taken up again")
    parser.add_argument("--remove_archives", type=boolean, default=False, help="true: delete an archive once extracted")
    arguments = parser.parse_args(argv)
    parts = arguments.parts.split()
    for part in parts:
        if part not in PARTS:
            raise UserError(f"--parts names {part!r}; {did_you_mean(part, PARTS)}")
    server = Server(arguments.url.rstrip("/"), arguments.retries)
    out = arguments.out
    done = True
    for part in parts:
        if (out / "LibriSpeech" / part).is_dir():
            continue
        done = False
        archive = server.fetch("12", f"{part}.tar.gz", out)
        extract(archive, part, out)
        if arguments.remove_archives:
            archive.unlink()
    for name in (LEXICON, f"{arguments.lm}.arpa.gz"):
        if not (out / name).is_file():
            done = False
            server.fetch("11", name, out, check_gzip if name.endswith(".gz") else check_text)
    print(f"{out}: already done" if done else f"{out}: {len(parts)} parts, lexicon and language model are complete")
    return 0


class Server:
    """Where the files come from: `URL/12/NAME`, `URL/11/NAME`, and an md5sum.txt beside them."""

    def __init__(self, url: str, retries: int):
        self.url, self.retries = url, retries
        self._sums: dict[str, dict[str, str]] = {}

    def fetch(self, folder: str, name: str, out: Path, check: Callable[[Path], str] | None = None) -> Path:
        """Download `folder/name` to `out/name` unless it is there; it gets that name only after its check.

        The check is the server's md5sum.txt; for a file that is not in it, `check(path)`, which returns what is wrong.
        A file that fails is kept as NAME.corrupt.
        """
        target = out / name
        if target.is_file():
            return target
        out.mkdir(parents=True, exist_ok=True)
        partial = out / f"{name}.part"
        expected = self.md5sums(folder).get(name)
        if expected is None and check is None:
            raise UserError(f"{self.url}/{folder}/md5sum.txt has no line for {name}; give --url of a complete mirror")
        downloading.complete(f"{self.url}/{folder}/{name}", partial, self.retries)
        if expected is None:
            wrong = check(partial)
        else:
            found = downloading.digest(partial, "md5")
            wrong = "" if found == expected else f"its md5 is {found}, md5sum.txt says {expected}"
        downloading.keep(partial, target, wrong, "give --url of a mirror")
        print(f"{target}: {target.stat().st_size} bytes, {'md5 agrees' if expected else 'no md5 published, readable'}")
        return target

    def md5sums(self, folder: str) -> dict[str, str]:
        """The checksums that the server publishes for `folder`, by file name; empty where it has no md5sum.txt."""
        if folder not in self._sums:
            try:
                lines = downloading.request(f"{self.url}/{folder}/md5sum.txt").read().decode().splitlines()
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise UserError(f"{error.url} answers {error.code} {error.reason}; try again later") from None
                lines = []
            except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
                raise UserError(f"{self.url} cannot be reached ({error}); check the network or give --url") from None
            pairs = [line.split() for line in lines if len(line.split()) == 2]
            self._sums[folder] = {name.lstrip("*./"): digest.lower() for digest, name in pairs}
        return self._sums[folder]


def extract(archive: Path, part: str, out: Path) -> None:
    """Extract `archive` so that `out/LibriSpeech/part` appears when it is complete."""
    temporary = out / f".extracting-{part}"
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir()
    print(f"{archive}: extracting", flush=True)
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, **safe)
        extracted = temporary / "LibriSpeech"
        if not (extracted / part).is_dir():
            raise UserError(f"{archive} holds no LibriSpeech/{part}; delete it and run this again")
        target = out / "LibriSpeech"
        target.mkdir(exist_ok=True)
        for path in [p for p in extracted.iterdir() if p.is_file()]:  # SPEAKERS.TXT and the like, the same in each part
            os.replace(path, target / path.name)
        os.replace(extracted / part, target / part)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} cannot be extracted ({error}); delete it and run this again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_gzip(path: Path) -> str:
    """What is wrong with a gzip file by its own checksum, or nothing."""
    try:
        with gzip.open(path) as stream:
            while stream.read(BLOCK):
                pass
    except (OSError, EOFError, zlib.error) as error:
        return str(error)
    return ""


def check_text(path: Path) -> str:
    """What is wrong with a text file, or nothing: it must be UTF-8, not a web page, and end with a line's end."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return str(error)
    if text.lstrip().startswith("<"):
        return "it is a web page"
    return "" if text.endswith("\n") else "its last line has no end"


if __name__ == "__main__":
    main()
