"""ESPnet's ASR task with a trainer that is patient on CTC's plateau, tells of every epoch, and survives a kill."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet2.train.reporter import SubReporter, aggregate, to_reported_value
from espnet2.train.trainer import Trainer

from dirnet.asr.tokens import type_of
from dirnet.compression.finetune import RestingSupport
from dirnet.compression.support import MovingSupport, SupportSchedule
from dirnet.errors import UserError
from dirnet.espnet.checkpoint import CHECKPOINT, PREVIOUS
from dirnet.espnet.versions import no_downloads
from dirnet.files import atomic_write

with no_downloads():  # workers that ESPnet spawns come here first
    from espnet2.tasks.asr import ASRTask

PLATEAU = 0.9  # phone error rate above which a model still says little but blank
WORST = 1e9  # ESPnet leaves out what is not finite
CURVES = "curves.json"


class RecipeTrainer(Trainer):
    """ESPnet's trainer with four habits added around an epoch; the loop itself is ESPnet's.

    * patience: early stopping begins to count when the phone error rate has left the plateau (`PLATEAU`)
    * `curves.json` and one line per epoch on standard output; a line a minute within long epochs
    * the last checkpoint is set aside before ESPnet writes the new one in place
    * the support of a model with a `SupportSchedule` moves; epochs before its end are no candidates for the best model,
      for early stopping and for the learning rate
    """

    curves: list[dict[str, Any]]
    patience: int | None
    started: float
    begun = False  # an epoch of this training

    @classmethod
    def run(cls, *, trainer_options, **others) -> None:
        cls.curves, cls.patience = read_curves(Path(trainer_options.output_dir)), trainer_options.patience
        schedule = schedule_of(others["model"])
        if schedule is not None and schedule.epochs > trainer_options.max_epoch:
            raise UserError(
                f"model_conf: support: epochs is {schedule.epochs}, expected at most max_epoch, which is "
                f"{trainer_options.max_epoch}: the model would end too large"
            )
        super().run(trainer_options=trainer_options, **others)

    @classmethod
    def train_one_epoch(cls, *, model, iterator, optimizers, reporter, options, distributed_option, **others) -> bool:
        epoch, cls.begun = reporter.get_epoch(), True
        cls.curves = [*cls.curves[: epoch - 1], {"epoch": epoch}]
        cls.started = time.perf_counter()
        talks = not distributed_option.distributed or distributed_option.dist_rank == 0
        with support_moving(model, optimizers[0], epoch, len(iterator) // options.accum_grad):
            stopped = super().train_one_epoch(
                model=model, iterator=Progress(iterator, reporter, epoch) if talks else iterator, optimizers=optimizers,
                reporter=reporter, options=options, distributed_option=distributed_option, **others,
            )  # fmt: skip
        cls.curves[-1]["train"] = means(reporter)
        cls.curves[-1]["lr"] = optimizers[0].param_groups[0]["lr"]
        return stopped

    @classmethod
    def validate_one_epoch(cls, *, model, reporter, options, distributed_option, **others) -> None:
        super().validate_one_epoch(
            model=model, reporter=reporter, options=options, distributed_option=distributed_option, **others
        )
        record, folder = cls.curves[-1], Path(options.output_dir)
        record["dev"] = means(reporter)
        record["seconds"] = time.perf_counter() - cls.started
        schedule = schedule_of(model)
        options.patience = patience_now(cls.curves, cls.patience, schedule.epochs - 1 if schedule else 0)
        if schedule and record["epoch"] < schedule.epochs:
            disqualify(reporter, [*options.best_model_criterion, options.early_stopping_criterion])
            disqualify(reporter, [[*options.val_scheduler_criterion, "min"]])
        if not distributed_option.distributed or distributed_option.dist_rank == 0:
            write_curves(folder, cls.curves)
            outputs = getattr(getattr(model, "module", model), "token_list", ())  # none: a language model
            print(one_line(record, type_of(outputs).rate.upper()), flush=True)
            if (folder / CHECKPOINT).exists():
                os.replace(folder / CHECKPOINT, folder / PREVIOUS)


def schedule_of(model) -> SupportSchedule | None:
    """The schedule of an ESPnet model, be it inside DDP, if its support moves."""
    return getattr(getattr(model, "module", model), "support", None)


@contextmanager
def support_moving(model, optimizer, epoch: int, steps: int) -> Iterator[None]:
    """Move the support after every step of `optimizer` in this block, an epoch of `steps`; all zeros stay so.

    Where the support does not move, that is checked after every step.
    """
    schedule = schedule_of(model)
    if schedule is None:
        resting = RestingSupport(model)
        hook = optimizer.register_step_post_hook(lambda *_: resting.step())
        try:
            yield
        finally:
            hook.remove()
        return
    support, done = MovingSupport(getattr(model, "module", model), schedule), itertools.count(1)
    hook = optimizer.register_step_post_hook(
        lambda *_: support.step((epoch - 1 + min(next(done) / max(steps, 1), 1)) / schedule.epochs)
    )
    try:
        yield
    finally:
        hook.remove()
        support.close()
    support.step(epoch / schedule.epochs)  # steps without a finite gradient were left out


def disqualify(reporter: SubReporter, criteria: Iterable[Sequence[str]]) -> None:
    """Make this epoch the worst by all `criteria` (phase, name, min | max) that the reporter's phase measures."""
    for phase, name, mode in criteria:
        if phase == reporter.key and name in reporter.stats:
            worst = to_reported_value(WORST if mode == "min" else -WORST)
            reporter.stats[name] = [worst] * len(reporter.stats[name])


class RecipeTask(ASRTask):
    """`espnet2.tasks.asr.ASRTask` with `RecipeTrainer`. Workers that ESPnet spawns import it, and so register too."""

    trainer = RecipeTrainer


class Progress(Iterable):
    """`iterator`, with a line a minute on standard output that says how far an epoch is."""

    def __init__(self, iterator, reporter: SubReporter, epoch: int, seconds: float = 60.0):
        self.iterator, self.reporter, self.epoch, self.seconds = iterator, reporter, epoch, seconds

    def __len__(self) -> int:
        return len(self.iterator)

    def __iter__(self) -> Iterator:
        told = time.perf_counter()
        for number, batch in enumerate(self.iterator):
            if time.perf_counter() - told > self.seconds:
                told = time.perf_counter()
                loss = means(self.reporter).get("loss", math.nan)
                print(f"epoch {self.epoch}: batch {number} of {len(self)}, train loss {loss:.3f}", flush=True)
            yield batch


def means(reporter: SubReporter) -> dict[str, float]:
    """The epoch's averages of what the model reports: losses, error rate, expected accuracy."""
    names = [name for name in reporter.stats if name.startswith("loss") or name in ("per", "smbr_acc", "skipped")]
    values = {name: float(aggregate(reporter.stats[name])) for name in names if name != "loss_scale"}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def patience_now(curves: list[dict[str, Any]], patience: int | None, held: int = 0) -> int | None:
    """Early stopping's patience after the last epoch of `curves`: none on the plateau and just behind it.

    held: epochs at the start in which it does not count either.
    """
    rates = [record.get("dev", {}).get("per", 0.0) for record in curves]
    plateau = next((number for number, rate in enumerate(rates) if rate < PLATEAU), len(rates))
    return patience if patience is not None and len(rates) - max(plateau, held) > patience else None


def one_line(record: dict[str, Any], rate: str = "PER") -> str:
    """What an epoch came to, in one line; `rate` is the name of the token error rate."""
    train, dev = record["train"], record["dev"]
    parts = [f"train loss {train.get('loss', math.nan):.3f}", f"dev loss {dev.get('loss', math.nan):.3f}"]
    if "per" in dev:
        parts.append(f"dev {rate} {100 * dev['per']:.1f} %")
    if "smbr_acc" in dev:
        parts.append(f"expected accuracy {100 * train['smbr_acc']:.2f} % train, {100 * dev['smbr_acc']:.2f} % dev")
    if train.get("skipped"):
        parts.append(f"{100 * train['skipped']:.2f} % of the utterances skipped")
    return f"epoch {record['epoch']}: {', '.join(parts)}, lr {record['lr']:.1e}, {record['seconds']:.1f} s"


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """The records of `folder/curves.json`, one per epoch; empty before the first."""
    path = folder / CURVES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def write_curves(folder: Path, curves: list[dict[str, Any]]) -> None:
    """Write `folder/curves.json`: per epoch `epoch, seconds, lr, train {...}, dev {...}`."""
    with atomic_write(folder / CURVES) as stream:
        json.dump(curves, stream, indent=1)
