"""Training by several processes computes what one process computes: torch's DDP, and ESPnet's own launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
from tiny_corpus import FEATURES, ROOT, TOKENS, write_config
from torch import nn

from dirnet.espnet import launch
from dirnet.espnet.task import read_curves

ENCODERS = {
    "dense": {},
    "compressed": {"compression": [[None, None], [6, 40], [6, 40]]},
}


def build(kind: str) -> nn.Module:
    """A `PhoneCTCModel` over features, two layers of 24 units; codes of compressed layers half zeros."""
    from espnet2.asr.ctc import CTC

    from dirnet.espnet.ctc_model import PhoneCTCModel
    from dirnet.espnet.encoder import RecurrentEncoder

    torch.manual_seed(0)
    encoder = RecurrentEncoder(FEATURES, hidden_size=24, num_layers=2, **ENCODERS[kind])
    return PhoneCTCModel(
        vocab_size=len(TOKENS), token_list=TOKENS, frontend=None, specaug=None, normalize=None, preencoder=None,
        encoder=encoder, postencoder=None, decoder=None, ctc=CTC(len(TOKENS), 24), joint_network=None,
    )  # fmt: skip


def batch(rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(1)
    whole = {
        "speech": torch.randn(4, 30, FEATURES, generator=noise),
        "speech_lengths": torch.tensor([30, 24, 30, 21]),
        "text": torch.randint(1, len(TOKENS) - 2, (4, 5), generator=noise),
        "text_lengths": torch.tensor([5, 3, 4, 5]),
    }
    return {name: value[rows] for name, value in whole.items()}


def half(rank: int, folder: Path) -> None:
    """One of two processes: loss and gradients of its half of the batch, as ESPnet's trainer makes them under DDP."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", world_size=2, rank=rank)
    answers = {}
    for kind in ENCODERS:
        model = build(kind)
        parallel = nn.parallel.DistributedDataParallel(model)
        loss, _, weight = parallel(**batch(slice(2 * rank, 2 * rank + 2)))
        total = weight.clone()
        torch.distributed.all_reduce(total)
        loss = (loss * weight).sum() / total
        (loss * 2).backward()  # DDP averages
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        gradients = {name: value.grad for name, value in model.named_parameters()}
        answers[kind] = {"loss": float(mean), "gradients": gradients, "state": model.state_dict()}
    torch.save(answers, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What two processes made: `answers[rank][kind]` with `loss`, `gradients` and `state` after a step."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(half, (folder,), nprocs=2, daemon=True)  # a fork beside threads may wait
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("kind", ENCODERS)
def test_two_processes_have_the_loss_and_gradients_of_one(answers, kind):
    alone = build(kind)
    loss, _, _ = alone(**batch())
    loss.backward()
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    for theirs in (answer[kind] for answer in answers):
        assert theirs["loss"] == pytest.approx(loss.item(), rel=1e-5)
        for name, value in alone.named_parameters():
            torch.testing.assert_close(theirs["gradients"][name], value.grad, rtol=0, atol=1e-4)
        for name, value in alone.state_dict().items():  # the step too
            torch.testing.assert_close(theirs["state"][name], value, rtol=0, atol=1e-4)
    if kind == "compressed":
        groups = [group for group in alone.encoder.rnn.groups if hasattr(group, "code_matrix")]
        assert groups
        for name in alone.state_dict():
            if "codes" in name or "index" in name:
                assert torch.equal(*(answer[kind]["state"][name] for answer in answers))


def test_the_place_among_several_processes(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launch.rank_of(["--max_epoch", "3"]) == 0
    assert launch.rank_of(["--dist_rank", "2", "--dist_world_size", "4"]) == 2
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert launch.rank_of(["--dist_launcher", "slurm"]) == 3 and launch.rank_of([]) == 0
    monkeypatch.setenv("RANK", "1")
    assert launch.rank_of([]) == 0  # somebody else's
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.rank_of([]) == 1


def test_what_a_launcher_adds_makes_no_other_training(tmp_path):
    config, more = {"max_epoch": 3}, ["--optim_conf", "lr=0.1"]
    launched = [*more, "--dist_rank", "1", "--dist_world_size", "2", "--dist_backend", "gloo", "--local_rank", "none"]
    expected = launch.fingerprint(config, more, None, tmp_path)
    assert launch.fingerprint(config, launched, None, tmp_path) == expected
    assert launch.fingerprint(config, ["--optim_conf", "lr=0.2"], None, tmp_path) != expected


@pytest.mark.slow
def test_espnets_launcher_on_two_hosts_reproduces_one_process(trained, tmp_path):
    """`espnet2.bin.launch --host` with gloo; `ssh` is a stand-in that runs the command here."""
    config = write_config(
        tmp_path / "ctc.yaml", specaug=None, specaug_conf=None, encoder_conf={"hidden_size": 24, "dropout": 0.0},
        optim_conf={"lr": 0.02}, max_epoch=2,
    )  # fmt: skip
    assert trained.train(config, tmp_path / "one") == 0
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{ssh.parent}{os.pathsep}{os.environ['PATH']}"}
    program = [sys.executable, "-m", "dirnet.espnet.train", *trained.options(config, tmp_path / "two")]
    launch = [sys.executable, "-m", "espnet2.bin.launch", "--host", "here,there", "--ngpu", "0", "--envfile", "none"]
    launch += ["--log", str(tmp_path / "launch.log"), "--init_file_prefix", str(tmp_path / "meeting_")]
    done = subprocess.run(
        [*launch, "--", *program],
        capture_output=True, text=True, env=environment, timeout=400, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "distributed" in (tmp_path / "two/train.log").read_text() and (tmp_path / "two/train.rank1.log").exists()
    for ours, theirs in zip(read_curves(tmp_path / "two"), read_curves(tmp_path / "one"), strict=True):
        for phase in ("train", "dev"):
            assert ours[phase]["loss"] == pytest.approx(theirs[phase]["loss"], rel=1e-4)
    assert (tmp_path / "two/model.safetensors").exists()
