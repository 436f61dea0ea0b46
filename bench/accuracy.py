"""Every method from the same trained models, with the same fine-tuning: phone and word errors, before and after.

    cd egs/librispeech_dirnet; ./run.sh --corpus mini --mini_text SENTENCES --mini_size "4700 300 300" \
        --stop_stage 2 --workdir WORK       # the corpus; or any other, real one
    python -m bench.accuracy --workdir WORK --config bench/conf/lstm_5x500.yaml --out OUT
    python -m bench.accuracy_table OUT      # tables with intervals

For every seed a dense model is trained once (OUT/dense_SEED), or, with --dense_seed, one for all seeds; then each
(method, size, seed) is a task: compress, measure, fine-tune, measure. Methods whose support moves move it during the
first half of the fine-tuning; a small dense model is trained like the dense one before. A task appends lines to
OUT/results.jsonl; a rerun does what is missing. OUT/setting.json keeps the configuration that all of them share.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.corpus import Batch, Corpus, digest
from bench.ctc import Training, check_precision, phone_errors, posteriors, train, word_errors
from bench.setting import check_setting
from dirnet import compress, reconstruct
from dirnet.asr.decode import DecodeConfig, Decoder
from dirnet.compression.budget import parse_size
from dirnet.compression.finetune import RestingSupport
from dirnet.compression.methods import load_methods
from dirnet.compression.report import size_figures
from dirnet.compression.support import MovingSupport, SupportSchedule, loosen, tighten
from dirnet.config import from_mapping, read_yaml
from dirnet.errors import UserError, one_line_errors
from dirnet.files import append_log, read_log
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel
from dirnet.options import Parser
from dirnet.provenance import commit, cpu_name


@dataclass(frozen=True)
class Bench:
    """What is compared. sizes: as `--size` of `dirnet compress`; methods: names in `compress_config`."""

    rnn_type: str
    num_layers: int
    hidden_size: int
    train: dict
    finetune: dict
    methods: tuple
    sizes: tuple
    compress_config: str = "conf/compress.yaml"
    frame_stride: int = 3
    beam: float = 10.0
    max_active: int = 1000
    calibration: int = 200  # training utterances
    train_set: str = "train"  # train_sp: at several speeds
    reconstruct: float = 0.0  # share of an epoch that compressed layers first learn from, without labels

    def __post_init__(self) -> None:
        if not 0 <= self.reconstruct <= 1:
            raise UserError(f"reconstruct is {self.reconstruct}, expected a part of the training set, from 0 to 1")


@dataclass(frozen=True)
class Task:
    """One line of the tables, for one seed; the dense control has no size."""

    method: str
    size: str
    seed: int


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Train the dense models, then run the tasks that OUT/results.jsonl lacks, JOBS at a time."""
    parser = Parser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="of the recipe, with stages 0 to 2 done")
    parser.add_argument("--config", required=True, help="as bench/conf/lstm_5x500.yaml")
    parser.add_argument("--out", required=True, type=Path, help="folder of the models and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--init", type=Path, help="model of this shape whose weights the dense models start from")
    parser.add_argument("--dense_seed", type=int, help="of the one dense model of all tasks; default: the task's seed")
    parser.add_argument("--methods", nargs="+", help="instead of the configuration's")
    parser.add_argument("--sizes", nargs="+", help="instead of the configuration's")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at a time, on one device")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    bench = from_mapping(Bench, read_yaml(arguments.config), arguments.config)
    methods, sizes = arguments.methods or bench.methods, arguments.sizes or bench.sizes
    known = load_methods(bench.compress_config)
    for method in methods:
        if method not in known:
            raise UserError(f"method {method!r} is unknown; {bench.compress_config} has {', '.join(known)}")
    for size in map(parse_size, sizes):  # before the training of the dense models
        if size.kind == "rtf":
            raise UserError(f"size {size.text} needs a cost model, which this bench has not; give a ratio or bytes")
    if arguments.init and not (arguments.init / storage.DESCRIPTION).is_file():
        raise UserError(f"--init {arguments.init} holds no model; give a folder such as OUT/dense_0 of another bench")
    for part in ("train", "finetune"):
        check_precision(from_mapping(Training, getattr(bench, part), f"{arguments.config}: {part}"), arguments.device)
    apart = ("methods", "sizes", "compress_config")  # what a rerun may change, but for what a method's name means
    shared = {name: value for name, value in asdict(bench).items() if name not in apart}
    shared |= {f"method {name}": asdict(known[name]) for name in methods} | {"dense_seed": arguments.dense_seed}
    shared |= {"init": arguments.init and storage.describe(arguments.init)["sha256"]}
    check_setting(arguments.out, shared | {"corpus": digest(arguments.workdir, bench.train_set)})
    setting = (bench, arguments.workdir, arguments.device, arguments.out, arguments.dense_seed, arguments.init)
    trained = arguments.seeds if arguments.dense_seed is None else [arguments.dense_seed]
    _run(_train_dense, [(seed,) for seed in trained], arguments.jobs, setting)
    tasks = [Task("dense", "1x", seed) for seed in arguments.seeds]
    tasks += [Task(m, s, seed) for s in sizes for m in methods if m != "dense" for seed in arguments.seeds]
    rows = read_log(arguments.out / "results.jsonl")
    finished = {(row["method"], row["size"], row["seed"]) for row in rows if row["stage"] == "after"}
    _run(_run_task, [(task,) for task in tasks if (task.method, task.size, task.seed) not in finished],
         arguments.jobs, setting)  # fmt: skip
    return 0


def _run(work, tasks: list[tuple], jobs: int, setting: tuple) -> None:
    """Call `work(*task)` for each task in processes that hold the corpus; here when there is one job."""
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        if tasks:
            _start(*setting)
        for task in tasks:
            work(*task)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _begin, setting) as pool:
        for _ in pool.imap_unordered(_Star(work), tasks):
            pass


@dataclass(frozen=True)
class _Star:
    work: Any

    def __call__(self, task: tuple) -> None:
        self.work(*task)


def _begin(*setting) -> None:
    """`_start` in a process of its own that ends with its parent, which may be killed before it can end the pool."""
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    _start(*setting)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _start(bench: Bench, workdir: str, device: str, out: Path, dense_seed: int | None, initial: Path | None) -> None:
    """What a process keeps for its tasks."""
    global _bench, _corpus, _out, _dense_seed, _initial, _decoder
    _bench, _out, _dense_seed, _initial = bench, out, dense_seed, initial
    if device == "cuda":
        torch.set_num_threads(1)
    _corpus = Corpus(workdir, torch.device(device), bench.train_set)
    graph = (_corpus.lang / "TLG.fst").is_file()
    _decoder = Decoder(_corpus.lang, DecodeConfig(beam=bench.beam, max_active=bench.max_active)) if graph else None


def _train_dense(seed: int) -> None:
    folder = _out / f"dense_{seed}"
    if (folder / storage.DESCRIPTION).exists():
        return
    torch.manual_seed(seed)
    config = _corpus.model_config(_bench.rnn_type, _bench.num_layers, _bench.hidden_size, _bench.frame_stride)
    settings = from_mapping(Training, _bench.train, "train")
    started = time.monotonic()  # of another corpus's model the weights are taken, not its normalisation
    model = AcousticModel.from_parts(config, *storage.load(_initial).parts()) if _initial else AcousticModel(config)
    train(model, _corpus, settings, seed, log=_log(f"dense {seed}"))
    told = asdict(settings) | {"seed": seed, "seconds": round(time.monotonic() - started, 1)}
    storage.save(model.cpu(), folder, {"training": told | {"init": _initial and str(_initial)}})


def _run_task(task: Task) -> None:
    dense = storage.load(_out / f"dense_{task.seed if _dense_seed is None else _dense_seed}")
    method = load_methods(_bench.compress_config)[task.method]
    log, started = _log(f"{task.method} {task.size} {task.seed}"), time.monotonic()
    data = [(batch.features.cpu(), batch.lengths) for batch in _drawn(task.seed)] if method.uses_data else None
    model, report = compress(copy.deepcopy(dense), task.size, method, seed=task.seed, progress=False, data=data)
    told = {"relative_error": report["relative_error"], "ratio": report["ratio"]}
    told["compress_s"] = round(time.monotonic() - started, 1)
    finetune = from_mapping(Training, _bench.finetune, "finetune")
    if _bench.reconstruct and method.can_reconstruct:
        started = time.monotonic()
        model, dense = model.to(_corpus.device), dense.to(_corpus.device)
        with finetune.autocast(_corpus.device):
            missed = reconstruct(model, dense, _lessons(task.seed), report["unit_orders"], progress=False)
        told |= {"missed": [missed[0], missed[-1]], "reconstruct_s": round(time.monotonic() - started, 1)}
    if method.solver == "small":
        train(model, _corpus, from_mapping(Training, _bench.train, "train"), task.seed, log=log)
    _measure(model, task, "before", told, log)
    started = time.monotonic()
    if method.support == "fixed":
        resting = RestingSupport(model.to(_corpus.device))
        train(model, _corpus, finetune, task.seed, dense.to(_corpus.device), lambda done: resting.step(), log)
    else:
        kept = loosen(model.cpu(), dense if method.support == "gradual" else None)
        moving = MovingSupport(model.to(_corpus.device), SupportSchedule(method.support, kept))
        train(model, _corpus, finetune, task.seed, dense.to(_corpus.device), lambda done: moving.step(2 * done), log)
        moving.close()
        tighten(model, kept)
    told["finetune_s"] = round(time.monotonic() - started, 1)
    storage.save(model.cpu(), _out / f"{task.method}_{task.size}_{task.seed}")
    _measure(model, task, "after", told, log)  # which ends the task


def _drawn(seed: int) -> list[Batch]:
    """Batches of `calibration` training utterances, of all lengths."""
    every = list(_corpus.train.batches(20, torch.Generator().manual_seed(seed)))
    return every[: -(-_bench.calibration // 20)]


def _lessons(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of a share of the training utterances, for `reconstruct`."""
    batches = _corpus.train.batches(32, torch.Generator().manual_seed(seed), _bench.reconstruct)
    return [(batch.features, batch.lengths) for batch in batches]


def _measure(model: AcousticModel, task: Task, stage: str, told: dict[str, Any], log) -> None:
    """Append a line of results: sizes, and errors of every test utterance."""
    model.to(_corpus.device)
    found = posteriors(model, _corpus.test)
    phones = phone_errors(model, _corpus.test, found)
    row = asdict(task) | {"stage": stage} | size_figures(model) | told
    row |= {"phone_errors": phones[0], "phones": phones[1]}
    if _decoder is not None:
        words = word_errors(_corpus, _corpus.test, found, _decoder)
        row |= {"word_errors": words[0], "words": words[1]}
    device = torch.cuda.get_device_name() if _corpus.device.type == "cuda" else cpu_name()
    row |= {"commit": commit(), "device": device, "torch": torch.__version__, "hours": round(_corpus.train.hours, 2)}
    append_log(_out / "results.jsonl", row)
    log(f"{stage}: test PER {100 * sum(phones[0]) / sum(phones[1]):.2f} %, {row['params']:,} params")


def _log(name: str):
    return lambda line: print(f"{time.strftime('%H:%M:%S')} {name}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
