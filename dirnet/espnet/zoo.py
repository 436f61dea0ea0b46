"""Packed models and ESPnet's model zoo.

check ZIP ...           load strictly: keys that are missing or unexpected are an error that names them
compact ZIP ...         store compressed layers in the bytes that the compression told, as stage 9 does by itself; in
                        what espnet2.bin.pack wrote places are 32 bit integers, int8 values floats
upload ZIP --repo R     the way of ESPnet's recipes: the unpacked zip with its card as a repository of the Hugging Face
                        hub, which `Speech2Text.from_pretrained("R")` loads; --dry_run true, the default, only tells
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dirnet.config import boolean, read_yaml
from dirnet.errors import UserError, one_line_errors
from dirnet.espnet import checkpoint, source
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.options import Parser

META, CARD, CONFIG = "meta.yaml", "README.md", "_train_config"
REPO = re.compile(r"[\w.-]+/[\w.-]+")


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run `check`, `compact` or `upload`."""
    parser = Parser(prog="dirnet zoo", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    checked = actions.add_parser("check", help="load packed models strictly")
    checked.add_argument("zips", nargs="+", type=Path, metavar="ZIP", help="what stage 9 or espnet2.bin.pack wrote")
    packed = actions.add_parser("compact", help="store compressed layers in the bytes that the compression told")
    packed.add_argument("zips", nargs="+", type=Path, metavar="ZIP", help="what espnet2.bin.pack wrote; is replaced")
    sent = actions.add_parser("upload", help="send a packed model to the Hugging Face hub")
    sent.add_argument("zip", type=Path, metavar="ZIP", help="what stage 9 or espnet2.bin.pack wrote")
    sent.add_argument("--repo", required=True, help="USER/NAME on the hub")
    sent.add_argument("--card", type=Path, help=f"model card; default: {CARD} of the zip")
    sent.add_argument("--private", default=False, type=boolean, help="a new repository is private (default: false)")
    sent.add_argument("--dry_run", default=True, type=boolean,
                      help="true: tell what would be sent; false: send it, with the token in $HF_TOKEN")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.action == "check":
        for path in arguments.zips:
            print(f"{path}: whole; {tell(check(path))}", flush=True)
    elif arguments.action == "compact":
        for path in arguments.zips:
            before = path.stat().st_size if path.is_file() else 0
            compact(path)
            print(f"{path}: {path.stat().st_size:,} bytes, before {before:,}", flush=True)
    else:
        upload(arguments)
    return 0


def check(path: Path) -> dict[str, int]:
    """Build every model of the zip `path` and compare its keys and shapes; task -> number of values.

    A zip that cannot be read, a file that it lacks, a class that cannot be built, a key that is missing or unexpected
    are `UserError`s.
    """
    with unpacked(path) as (folder, meta):
        return {task: sum(value.numel() for value in state.values())
                for task, _, _, state in _models(path, folder, meta)}  # fmt: skip


def compact(path: Path) -> None:
    """Replace every model of the zip `path` by `storage.stored_state` of it, which ESPnet loads all the same.

    What is wrong with a zip is told as by `check`; it is replaced when the new one is whole.
    """
    with unpacked(path) as (folder, meta):
        fresh = {}
        for _, weights, model, state in _models(path, folder, meta):
            model.load_state_dict(state)
            stream = io.BytesIO()
            torch.save(storage.stored_state(model), stream)
            fresh[weights] = stream.getvalue()
    with zipfile.ZipFile(path) as old, atomic_write(path, "wb") as stream, zipfile.ZipFile(stream, "w") as new:
        for item in old.infolist():
            new.writestr(item, fresh[item.filename] if item.filename in fresh else old.read(item))


def _models(path: Path, folder: Path, meta: Mapping[str, Any]) -> Iterator[tuple[str, str, nn.Module, dict]]:
    """Of every model of the zip `path`, unpacked in `folder`: task, name of its weights, an untrained one, state."""
    configs = {key.removesuffix(CONFIG): name for key, name in meta["yaml_files"].items() if key.endswith(CONFIG)}
    if not configs:
        raise UserError(f"{path}: {META} names no training configuration; pack it with espnet2.bin.pack")
    for task, config in configs.items():
        weights = meta["files"].get(f"{task}_model_file", meta["files"].get(f"{task}_file"))
        if weights is None:
            raise UserError(f"{path}: {META} names {config}, but no model for it; pack it with espnet2.bin.pack")
        if not (folder / weights).is_file():
            raise UserError(f"{path} lacks {weights}, which its {META} names; pack the model again")
        values = read_yaml(folder / config)  # its own keys tell the task: ESPnet packs others as asr, too
        check_files(values, config, folder, path)
        model = source.built(source.task_of(values, path), values, path)
        state = checkpoint.whole_state(model, checkpoint.load_state(folder / weights), path)
        checkpoint.check_fits(state, model.state_dict(), path, "pack the configuration that it was trained with")
        yield task, weights, model, state


def check_files(values: Mapping[str, Any], config: str, folder: Path, path: Path) -> None:
    """A `UserError` where `values` of the configuration `config` name a file outside `folder`, the unpacked `path`.

    It may exist here; who downloads the package does not have it.
    """
    for key, value in source.named_strings(values):
        inside = (folder / value).resolve().is_relative_to(folder.resolve()) and (folder / value).exists()
        if not inside and (key in source.NEEDED_FILES or Path(value).is_file()):
            raise UserError(f"{path}: {key} of {config} is {value}, which is not in the package; "
                            f"pack it again with --option {value}")  # fmt: skip


@contextlib.contextmanager
def unpacked(path: Path):
    """A folder, gone afterwards, with the content of the zip `path`, paths set by ESPnet's unpacker; its meta.yaml."""
    check_zip(path)
    with tempfile.TemporaryDirectory() as name:
        source.unpack(path, Path(name))
        yield Path(name), yaml.safe_load((Path(name) / META).read_text(encoding="utf-8"))


def check_zip(path: Path) -> None:
    """A `UserError` unless `path` is a whole zip with meta.yaml at its top."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad, names = archive.testzip(), archive.namelist()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it with stage 9 or espnet2.bin.pack") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is no whole zip ({error}); pack the model again") from None
    if bad:
        raise UserError(f"{path}: {bad} is damaged; pack the model again")
    if META not in names:
        raise UserError(f"{path} has no {META}, so it is no packed ESPnet model; pack it with espnet2.bin.pack")


def upload(arguments: Namespace) -> None:
    """Tell what goes to the hub, and send it unless `--dry_run`."""
    path, repo = arguments.zip, arguments.repo
    if not REPO.fullmatch(repo):
        raise UserError(f"--repo is {repo!r}, expected USER/NAME, as in espnet/my_model")
    token = os.environ.get("HF_TOKEN")
    if not arguments.dry_run and not token:
        raise UserError("HF_TOKEN is not set; put a token with write access into the environment, or --dry_run true")
    found = check(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(path) as archive:  # as `unzip` in the recipes: the hub's paths are relative ones
            archive.extractall(folder)
        if arguments.card:
            (folder / CARD).write_bytes(arguments.card.read_bytes())
        if not (folder / CARD).exists():
            raise UserError(f"{path} has no {CARD}; give a model card with --card FILE")
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        print(f"{path}: whole; {tell(found)}\nmodel repository {repo}{', private' if arguments.private else ''}:")
        for file in files:
            print(f"  {file.stat().st_size:>12,} bytes  {file.relative_to(folder)}")
        print(f"{CARD}:\n" + "".join(f"  {line}\n" for line in (folder / CARD).read_text().splitlines()), flush=True)
        if arguments.dry_run:
            print("nothing was sent; --dry_run false sends it")
        else:
            print(f"sent: {send(folder, repo, token, arguments.private)}")


def send(folder: Path, repo: str, token: str, private: bool) -> str:
    """Make the repository where it is missing and commit the files of `folder`; the address of the commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        return str(hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Update model"))
    except HfHubHTTPError.__bases__ as error:  # what the HTTP library below it raises, whichever it is
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{repo}: the hub refused ({first}); check the name, the token's rights, the network") from None


def tell(found: Mapping[str, int]) -> str:
    """What a check found, in words."""
    sizes = [f"{task} model of {values:,} values (weights and statistics)" for task, values in found.items()]
    return ", ".join(f"{size}, every key in its place" for size in sizes)


if __name__ == "__main__":
    main()
