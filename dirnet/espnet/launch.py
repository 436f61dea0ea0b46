"""A training of ESPnet's in a folder of its own: what it is known by, its first files, its log, its run.

What acoustic and language models share; `train` and `lm_train` say what is trained.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import json
import logging
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from dirnet.asr.features import Statistics
from dirnet.config import read_yaml
from dirnet.errors import UserError
from dirnet.espnet import checkpoint, experiment
from dirnet.files import atomic_write, read_json
from dirnet.options import Parser

LOG, CONFIG, INITIAL, FINAL = "train.log", "train.yaml", "initial.pth", "model.pth"
DISTRIBUTED = (
    "dist_backend", "dist_init_method", "dist_world_size", "dist_rank", "dist_master_addr", "dist_master_port",
    "dist_launcher", "local_rank", "multiprocessing_distributed",
)  # fmt: skip
PATHS = ("stats_file", "token_list", "phone_ngram", "reference", "teacher")
# may change when a training goes on
FREE = ("ngpu", "num_workers", "log_interval", "max_epoch", "patience", *DISTRIBUTED)


def parse(parser: Parser, argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of `parser` and `--ngpu`; the others, which are ESPnet's, with or without a `--` before them."""
    parser.add_argument("--ngpu", default=0, type=int, help="GPUs; more than one trains by ESPnet's DDP")
    arguments, overrides = parser.parse_known_args(argv)
    if arguments.ngpu > torch.cuda.device_count():
        raise UserError(f"--ngpu is {arguments.ngpu}, but torch sees {torch.cuda.device_count()} GPU(s); use fewer")
    return arguments, [word for word in overrides if word != "--"]


def fingerprint(
    config: dict[str, Any],
    overrides: list[str],
    state: dict[str, torch.Tensor] | None,
    exp: Path,
    made: Mapping[str, Path] = types.MappingProxyType({}),
) -> str:
    """A sha256 of everything that makes two trainings differ: options, weights to start from, data as read.

    Paths count as they lie from the folder `exp`, not as they are spelled. made: where files of the configuration are
    as long as they are not in their places.
    """
    pairs = [word.strip() for word in " ".join(overrides).split("--") if re.split(r"[ =]", word)[0] not in ("", *FREE)]
    fixed = {key: _located(key, value, exp) for key, value in config.items() if key not in FREE}
    summary = hashlib.sha256(json.dumps([fixed, pairs], sort_keys=True, default=str).encode())
    for key, value in sorted((state or {}).items()):
        summary.update(key.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for path in _contents(config):
        with open(made.get(path, path), "rb") as stream:
            summary.update(hashlib.file_digest(stream, "sha256").digest())
    if stats := (config.get("normalize_conf") or {}).get("stats_file"):
        summary.update(_rounded(Statistics.read(stats)).encode())
    return summary.hexdigest()


def _located(key: str, value: Any, exp: Path) -> Any:
    """`value` of a configuration's `key`, the paths that the recipes fill in being those from `exp`, links resolved."""

    def seen(path: str) -> str:
        return os.path.relpath(os.path.realpath(path), os.path.realpath(exp))

    if isinstance(value, Mapping):
        return {name: _located(name, one, exp) for name, one in value.items()}
    if key.endswith("_data_path_and_name_and_type"):
        return [[seen(path), *others] for path, *others in value]
    if key.endswith("_shape_file"):
        return [seen(path) for path in value]
    return seen(value) if key in PATHS and isinstance(value, str) else value


def _contents(config: dict[str, Any]) -> Iterator[str]:
    """The files that tell one corpus from another besides the features' statistics: transcripts and lengths."""
    for role in ("train", "valid"):
        yield from (path for path, _, kind in config.get(f"{role}_data_path_and_name_and_type", ()) if kind == "text")
        yield from config.get(f"{role}_shape_file", ())


def _rounded(statistics: Statistics) -> str:
    """Mean and deviation of the features to six digits: the last bits of sums depend on the number of jobs.

    Means are told in deviations, since the digits of a mean that is nearly zero are such last bits.
    """
    mean = statistics.sum / statistics.count
    deviation = np.sqrt(np.maximum(statistics.sum_square / statistics.count - np.square(mean), 1e-20))
    means = np.round(mean / deviation, 6) + 0.0  # no negative zeros
    return json.dumps([[f"{one:.6f}" for one in means], [f"{one:.5e}" for one in deviation]])


def is_finished(
    exp: Path, record: Mapping[str, Any] | None, digest: str, config: Mapping[str, Any], overrides: list[str]
) -> bool:
    """Whether `record`, of what `exp` holds, is of this training with all its epochs: it goes on to more of them.

    record: `digest` and `max_epoch` of a training at its end. Fewer epochs than the training had are a `UserError`: it
    is not one of so many any more.
    """
    if record is None or record.get("digest") != digest:
        return False
    parser = Parser(prog="ESPnet", add_help=False)
    parser.add_argument("--max_epoch", type=int, default=config.get("max_epoch"))
    had, wanted = record.get("max_epoch"), parser.parse_known_args(overrides)[0].max_epoch
    if had is None or wanted is None:  # older trainings do not tell
        return True
    if wanted < had:
        raise UserError(f"{exp} holds a training with max_epoch {had}, not {wanted}; take that back, remove the folder "
                        "or give another one")  # fmt: skip
    return wanted == had


def refuse_other(exp: Path, digest: str, config: Mapping[str, Any]) -> None:
    """A `UserError` when `exp` holds another training, finished or not; one that never came to an epoch is none.

    It names the first option that `config` has otherwise, if it is one.
    """
    record = read_json(exp / "train.json")
    trained = (exp / FINAL).exists() or any(exp.glob("checkpoint*.pth"))
    if trained and record is not None and record["digest"] != digest:
        other = "other data, weights or options of the command line"
        if (exp / CONFIG).exists():
            before = {key: _located(key, value, exp) for key, value in read_yaml(exp / CONFIG).items()}
            now = {key: _located(key, value, exp) for key, value in config.items()}
            other = _difference(before, now) or other
        raise UserError(f"{exp} holds a training with {other}; take that back, remove the folder or give another one")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], inside: str = "") -> str:
    """The first option that differs, with both values; nothing where none does."""
    for key in sorted({*before, *now} - {"init_param", *FREE}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if told := _difference(old, new, f"{inside}{key}: "):
                return told
        elif json.dumps(old, default=str) != json.dumps(new, default=str):
            return f"{inside}{key} {old!r}, not {new!r}"
    return ""


@contextlib.contextmanager
def begun(
    exp: Path, config: dict[str, Any], state: dict[str, torch.Tensor] | None, digest: str, rank: int
) -> Iterator[Path]:
    """A training's folder with its first files, while what is said goes to a log, whose path is the value.

    state: the weights to start from. rank: of this process; the first mends what an interrupted training left.
    """
    log = exp / (f"train.rank{rank}.log" if rank else LOG)
    if not rank:
        checkpoint.recover(exp)
    _write_start(exp, config, state, digest)
    print(f"{exp}: ESPnet's own log is {log}", flush=True)
    with logged(log), checkpoint.full_disk_told(exp):
        yield log


def _write_start(exp: Path, config: dict[str, Any], state: dict[str, torch.Tensor] | None, digest: str) -> None:
    """ESPnet's configuration, the weights to start from, if any, and the training's digest."""
    if state is not None:
        with atomic_write(exp / INITIAL, "wb") as stream:
            torch.save(state, stream)
        config = {**config, "init_param": [str(exp / INITIAL)]}
    with atomic_write(exp / CONFIG) as stream:
        yaml.safe_dump(config, stream, sort_keys=False)
    with atomic_write(exp / "train.json") as stream:
        json.dump({"digest": digest}, stream)


def run(
    exp: Path, task: type, arguments: argparse.Namespace, overrides: list[str], log: Path, initial: Path | None
) -> None:
    """ESPnet's training of `task` as `begun` wrote it, after a look at its options and its weights.

    arguments: with `config`, the user's file, and `ngpu`. initial: where the weights came from, for the errors.
    """
    experiment.check_overrides(overrides, task)
    options = ["--config", str(exp / CONFIG), "--output_dir", str(exp), "--ngpu", str(arguments.ngpu)]
    options += ["--multiprocessing_distributed", str(arguments.ngpu > 1).lower(), *overrides]
    try:
        values = experiment.with_numbers(vars(task.get_parser().parse_args(options)))
        experiment.check_values(values, arguments.config)  # those of the command line too
        experiment.check_confs(values, task, arguments.config)
        experiment.check_criteria(values, arguments.config)
        experiment.check_schedule(values, arguments.config)
        with refusals_told(task, arguments.config, log):
            if initial:
                model = task.build_model(argparse.Namespace(**copy.deepcopy(values)))
                found = torch.load(exp / INITIAL, weights_only=True)
                state = checkpoint.whole_state(model, found, initial)
                checkpoint.check_fits(state, model.state_dict(), initial)
                if state.keys() != found.keys():  # of a package; the trained model is compared with it
                    with atomic_write(exp / INITIAL, "wb") as stream:
                        torch.save(state, stream)
            task.main(argparse.Namespace(**values))
    except SystemExit:  # argparse's way to refuse a value; its last line says which
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise UserError(f"{arguments.config}: ESPnet refused an option: {' '.join(last)}") from None


@contextlib.contextmanager
def refusals_told(task: type, config: Path, log: Path) -> Iterator[None]:
    """Make a `UserError` of what ESPnet or torch raise at values of `config` before the first epoch; `log` gets all."""
    from typeguard import TypeCheckError  # ESPnet's

    task.trainer.begun = False
    try:
        yield
    except (ValueError, TypeError, KeyError, AssertionError, ZeroDivisionError, TypeCheckError) as error:
        if task.trainer.begun or isinstance(error, UserError):
            raise
        logging.exception("refused")
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(f"{config}: ESPnet refuses a value ({type(error).__name__}: {reason}); mend it; "
                        f"{log} tells where it was read") from None  # fmt: skip


def rank_of(overrides: list[str]) -> int:
    """This process's place among those that a launcher, such as `espnet2.bin.launch`, started on one or more nodes.

    All write the same files, whole; only the first one recovers, tells of epochs and ends with the model.
    """
    parser = Parser(prog="ESPnet", add_help=False)
    for name in ("--dist_rank", "--dist_world_size", "--dist_launcher"):
        parser.add_argument(name)
    options = parser.parse_known_args(overrides)[0]
    variable = {"slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}.get(options.dist_launcher, "RANK")
    alone = not options.dist_launcher and int(options.dist_world_size or os.environ.get("WORLD_SIZE", 1)) == 1
    return 0 if alone else int(options.dist_rank or os.environ.get(variable, 0))


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send log records and standard error, those of child processes included, to the end of the file `path`."""
    sys.stderr.flush()
    kept, log = os.dup(2), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.close(log)
    stream = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stderr(stream):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        stream.flush()
        os.dup2(kept, 2)
        os.close(kept)
