"""Early stopping that survives the plateau, and what a user sees of an epoch."""

from __future__ import annotations

import time

from dirnet.espnet.task import Progress, one_line, patience_now


def curves(*rates):
    return [{"epoch": number, "dev": {"per": rate}} for number, rate in enumerate(rates, 1)]


def test_no_patience_on_the_plateau_nor_right_behind_it():
    plateau = [1.0] * 20
    assert patience_now(curves(*plateau), 3) is None
    assert patience_now(curves(*plateau, 0.8, 0.8, 0.8), 3) is None
    assert patience_now(curves(*plateau, 0.8, 0.8, 0.8, 0.8), 3) == 3
    assert patience_now(curves(*plateau, *[0.8] * 9), None) is None


def test_a_model_that_starts_behind_the_plateau():
    assert [patience_now(curves(*[0.1] * n), 2) for n in (1, 2, 3)] == [None, None, 2]


def test_the_line_of_an_epoch():
    train, dev = {"loss": 4.0, "smbr_acc": 0.5}, {"loss": 5.0, "per": 0.25}
    record = {"epoch": 3, "train": train, "dev": dev, "lr": 1e-3, "seconds": 9}
    assert one_line(record) == "epoch 3: train loss 4.000, dev loss 5.000, dev PER 25.0 %, lr 1.0e-03, 9.0 s"
    record["dev"]["smbr_acc"] = 0.4
    assert "expected accuracy 50.00 % train, 40.00 % dev" in one_line(record)


def test_long_epochs_say_how_far_they_are(capsys):
    class Reporter:
        stats = {}

    class Batches(list):
        def __iter__(self):
            for item in super().__iter__():
                time.sleep(0.02)
                yield item

    assert list(Progress(Batches("abc"), Reporter(), 2, seconds=0.03)) == ["a", "b", "c"]
    assert "epoch 2: batch" in capsys.readouterr().out
