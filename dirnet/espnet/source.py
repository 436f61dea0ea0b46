"""A trained ESPnet model as its users have it: a folder, `config.yaml,model.pth`, a packed zip or a tag of the zoo."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import io
import json
import logging
import lzma
import shutil
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from dirnet.config import read_yaml
from dirnet.errors import UserError
from dirnet.espnet import versions
from dirnet.espnet.checkpoint import CHECKPOINT, PREVIOUS, check_fits, load_state, whole_state
from dirnet.files import atomic_write, read_json
from dirnet.nn import storage

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".tbz2", ".bz2", ".txz", ".xz")
# ESPnet's configs do not name their task; each has keys that no other has. The class of the task, and its keys.
TASKS = {
    "lm": ("LMTask", {"lm"}),
    "asr_transducer": ("ASRTransducerTask", {"joint_network_conf"}),
    "st": ("STTask", {"src_token_list"}),
    "slu": ("SLUTask", {"deliberationencoder"}),
    "asr": ("ASRTask", {"encoder", "token_list"}),
}
NEEDED_FILES = ("bpemodel", "non_linguistic_symbols", "stats_file")
ALSO = "give an ESPnet experiment folder, config.yaml,model.pth, a packed zip or a tag of the model zoo"


@dataclass(frozen=True)
class Source:
    """config: what config.yaml holds, as it is. model: the checkpoint. files: by its name in config, an existing file.

    task: asr, lm, slu, s2t, st or asr_transducer.
    """

    config: Mapping[str, Any]
    config_file: Path
    model: Path
    task: str
    files: Mapping[str, Path]

    def build(self) -> nn.Module:
        """The model in eval mode, its weights loaded strictly; what ESPnet cannot build is a `UserError`."""
        config = replaced_strings(dict(self.config), {name: str(path) for name, path in self.files.items()})
        model = built(self.task, {**config, "init": None}, self.config_file)
        _refuse_quantised(self.model)
        state = load_state(self.model)
        state = whole_state(model, state.get("module", state), self.model)  # "module": of DeepSpeed
        check_fits(state, model.state_dict(), self.model, f"give the checkpoint that {self.config_file} belongs to")
        model.load_state_dict(state)
        return model.eval()


def find(text: str) -> Source:
    """The model that the user calls `text`; everything wrong with it is a `UserError`."""
    config_file, model = _files(text)
    for path in (config_file, model):
        if not path.is_file():
            raise UserError(f"{path} does not exist; {ALSO}")
    config = read_yaml(config_file)
    return Source(config, config_file, model, task_of(config, config_file), _named_files(config, config_file))


def task_of(config: Mapping[str, Any], where: Path) -> str:
    """Which task a configuration belongs to; one that is none of ours is a `UserError`."""
    if config.get("preprocessor") == "s2t":
        return "s2t"
    for task, (_, keys) in TASKS.items():
        if keys <= config.keys():
            return task
    raise UserError(f"{where} is not the config.yaml of a trained model of the tasks {', '.join(TASKS)} or s2t; {ALSO}")


def task_class(task: str) -> type:
    """ESPnet's class."""
    versions.imported("dirnet.espnet")  # registers our classes
    return getattr(versions.imported(f"espnet2.tasks.{task}"), "S2TTask" if task == "s2t" else TASKS[task][0])


def built(task: str, config: Mapping[str, Any], where: Path) -> nn.Module:
    """The untrained model of `config`; `where` is named in errors."""
    owner = task_class(task)
    made_by = f"made by ESPnet {config.get('version', 'of an unknown version')}"
    try:
        with contextlib.redirect_stdout(io.StringIO()), remarks_dropped():
            return owner.build_model(argparse.Namespace(**config))
    except ImportError as error:
        raise UserError(f"{where} needs a module that is not installed ({error}); install it") from None
    except OSError as error:
        raise UserError(f"{where}: {error}; put that file where the config says") from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{where} ({made_by}): {error}; install what defines that class, or mend the line") from None
    except (TypeError, AttributeError) as error:
        here = f"does not fit the installed ESPnet {versions.found()}"
        raise UserError(f"{where} ({made_by}) {here}: {error}; train it there") from None


@contextlib.contextmanager
def remarks_dropped() -> Iterator[None]:
    """Without the warnings that ESPnet logs when it builds a model and with every utterance."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.getLogger().setLevel(level)


def replaced_strings(value: Any, names: Mapping[str, str]) -> Any:
    """`value` of a configuration with every string that is a key of `names` replaced."""
    if isinstance(value, Mapping):
        return {key: replaced_strings(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [replaced_strings(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def _files(text: str) -> tuple[Path, Path]:
    """Configuration and checkpoint."""
    first, comma, second = text.partition(",")
    if comma:
        return Path(first), Path(second)
    path = Path(text)
    if path.is_dir():
        return path / "config.yaml", _checkpoint(path)
    if path.suffix in ARCHIVES:
        return _unpacked(path)
    if path.suffix in (".pth", ".yaml") or path.exists():
        raise UserError(f"{text} is one file of two; {ALSO}")
    return _downloaded(text)


def _checkpoint(folder: Path) -> Path:
    """The model of an experiment, told on standard output: the mean of epochs where there is one, as recipes decode."""
    whole = [folder / "model.pth"] if (folder / storage.DESCRIPTION).is_file() else []  # of our own trainings
    patterns = ("valid.*.ave.pth", "*.ave.pth", "*.ave_*best.pth", "valid.*.best.pth", "*.pth")
    for found in (whole, *(sorted(folder.glob(pattern)) for pattern in patterns)):
        found = [one for one in found if one.is_file() and one.name not in (CHECKPOINT, PREVIOUS)]
        if len(found) == 1:
            print(f"{folder}: taking {found[0].name}", flush=True)
            return found[0]
        if found:
            break
    names = ", ".join(one.name for one in found[:4]) or "none"
    raise UserError(f"{folder} has not one model to compress, but: {names}; give {folder}/config.yaml,MODEL")


def _unpacked(path: Path) -> tuple[Path, Path]:
    """The two files in a package, unpacked into a folder beside it, once: jobs of an array may read it together."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; {ALSO}")
    folder = path.absolute().with_name(f"{path.name}.unpacked")  # ESPnet writes this path into the configuration
    record, stat = folder / ".unpacked.json", path.stat()
    of, new = [str(folder), stat.st_size, stat.st_mtime_ns], not folder.exists()
    folder.mkdir(exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        found = read_json(record)
        if found is None or found["of"] != of:
            try:
                found = {"of": of, "files": unpack(path, folder)}
            except UserError:
                if new:
                    shutil.rmtree(folder)
                raise
            with atomic_write(record) as stream:
                json.dump(found, stream)
    return _model_in(found["files"], path)


def unpack(path: Path, folder: Path) -> dict[str, str]:
    """What meta.yaml of the package `path` names: key -> file in `folder`, by ESPnet's unpacker.

    A damaged or foreign package, and one with a name that leads out of `folder`, are `UserError`s.
    """
    versions.check_espnet()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            pack_funcs = importlib.import_module("espnet2.main_funcs.pack_funcs")
            with pack_funcs.Archiver(path) as archive:
                for info in archive:  # ESPnet takes any name
                    name = Path(archive.get_name_from_info(info))
                    if name.is_absolute() or ".." in name.parts or getattr(info, "linkname", ""):
                        raise RuntimeError(f"{name} may lead out of its folder")
            return pack_funcs.unpack(path, folder, use_cache=False)
    except (
        zipfile.BadZipFile, tarfile.TarError, yaml.YAMLError, zlib.error, lzma.LZMAError, EOFError, OSError,
        RuntimeError, KeyError, AssertionError, ValueError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is no whole ESPnet package ({reason}); pack or download it again") from None


def _model_in(info: Mapping[str, str], path: str | Path) -> tuple[Path, Path]:
    """Configuration and checkpoint among what `unpack` returns; the language model where there is no other."""
    for task in ("asr", "s2t", "st", "lm"):
        config, model = info.get(f"{task}_train_config"), info.get("lm_file" if task == "lm" else f"{task}_model_file")
        if config and model:
            return Path(config), Path(model)
    raise UserError(f"{path} holds {', '.join(sorted(info)) or 'nothing'}, expected a model for recognition; {ALSO}")


def _downloaded(tag: str) -> tuple[Path, Path]:
    """The two files of a model of the zoo, which needs the internet."""
    if tag.count("/") != 1 or tag.startswith((".", "/")):
        raise UserError(f"{tag} does not exist; {ALSO}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            info = importlib.import_module("espnet_model_zoo.downloader").ModelDownloader().download_and_unpack(tag)
    except ImportError:
        raise UserError(f"{tag} is no file, and a tag of the zoo needs pip install espnet_model_zoo") from None
    except Exception as error:  # the hub has a dozen kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{tag} is no file, and the model zoo does not give it ({first}); {ALSO}") from None
    return _model_in(info, tag)


def _refuse_quantised(path: Path) -> None:
    """A `UserError` for a checkpoint of `torch.ao.quantization`: its layers hold packed weights, named so."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl") and (b"_packed_params" in (text := archive.read(name))
                                              or b"_all_weight_values" in text):  # fmt: skip
                raise UserError(f"{path} is quantised; give the float model it was made of")


def named_strings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and value of every string of a configuration that may be the name of a file the model is built or used with.

    Those of the keys `NEEDED_FILES` and `token_list`, and whatever a `*_conf` holds.
    """

    def look(key: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for name, one in value.items():
                yield from look(str(name), one)
        elif isinstance(value, str) and value:
            yield key, value

    for key, value in config.items():
        if key in NEEDED_FILES or key == "token_list" or key.endswith("_conf"):
            yield from look(key, value)


def _named_files(config: Mapping[str, Any], config_file: Path) -> dict[str, Path]:
    """Files that the configuration cannot do without, and others that it names in a `*_conf`."""
    found: dict[str, Path] = {}
    for key, value in named_strings(config):
        path = _resolved(value, config_file) if "/" in value or Path(value).suffix else None
        if path:
            found[value] = path
        elif key in NEEDED_FILES:
            raise UserError(f"{config_file}: {key} {value} does not exist; run it where that path holds")
    return found


def _resolved(value: str, config_file: Path) -> Path | None:
    """The file `value`: from here, or from a folder above the configuration, as in ESPnet's recipes."""
    for folder in (Path(), *config_file.absolute().parents):
        with contextlib.suppress(OSError):
            if (folder / value).is_file():
                return (folder / value).absolute()
    return None


def dump(config: Mapping[str, Any]) -> str:
    """YAML as ESPnet writes it."""
    return yaml.safe_dump(dict(config), indent=4, sort_keys=False, allow_unicode=True)
