"""The model `dirnet_smbr`: its options, what it reports, and the same loss from two processes as from one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_ctc_model import build  # noqa: F401 - a fixture
from tiny_corpus import FEATURES, ROOT, TOKENS

from dirnet.asr.phone_ngram import PhoneNgram
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


def batch_of(utterances: int) -> dict[str, torch.Tensor]:
    """Random features of 40 frames and fewer, three phones each."""
    generator = torch.Generator().manual_seed(5)
    return {
        "speech": torch.randn(utterances, 40, FEATURES, generator=generator),
        "speech_lengths": torch.tensor([40 - 3 * n for n in range(utterances)]),
        "text": torch.randint(1, 5, (utterances, 3), generator=generator),
        "text_lengths": torch.full((utterances,), 3),
    }


def test_options_are_checked(build, tmp_path):  # noqa: F811
    assert build("dirnet_smbr").graph.outputs.max() == len(TOKENS) - 3
    for conf, message in (
        ({"blank_weight": 2}, "blank_weight 2"),
        ({"silence": "quiet"}, "silence is 'quiet'"),
        ({"smbr_order": 3}, "of order 2, expected 6 and 3"),
    ):
        with pytest.raises(UserError, match=message):
            build("dirnet_smbr", **conf)
    PhoneNgram.uniform(3).save(tmp_path / "three.npz")
    with pytest.raises(UserError, match="over 3 phones and of order 2, expected 6"):
        build("dirnet_smbr", phone_ngram=str(tmp_path / "three.npz"))


def test_an_utterance_without_a_path_is_skipped_and_counted(build):  # noqa: F811
    model, batch = build("dirnet_smbr", ctc_smooth=0.0), batch_of(4)
    whole, stats, _ = model(**batch)
    batch["speech_lengths"][1] = 2  # two frames for three phones
    loss, told, _ = model(**batch)
    assert float(stats["skipped"]) == 0 and float(told["skipped"]) == 0.25
    assert torch.isfinite(loss) and loss.item() < whole.item()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert {"smbr_acc", "loss_ctc", "loss_smbr", "per"} <= stats.keys()


def test_the_reference_may_be_another_model(build, tmp_path):  # noqa: F811
    config = AcousticModelConfig(
        rnn_type="gru", hidden_size=9, num_layers=2, phones=tuple(TOKENS[:-2]), cmvn_mean=(0.0,) * FEATURES,
        cmvn_istd=(1.0,) * FEATURES, num_outputs=len(TOKENS) - 2, context=5,
    )  # fmt: skip
    storage.save(AcousticModel(config), tmp_path / "dense")
    model, batch = build("dirnet_smbr", reference=str(tmp_path / "dense")), batch_of(3)
    path = model.align(**batch)
    log_probs, _ = storage.load(tmp_path / "dense")(batch["speech"], batch["speech_lengths"])
    assert [len(set(row.tolist()) - {0}) > 0 for row in path] == [True] * 3 and path.shape == log_probs.shape[:2]
    assert not any(name.startswith("aligner") for name in model.state_dict())
    storage.save(AcousticModel(dataclasses.replace(config, frame_stride=3)), tmp_path / "other")
    with pytest.raises(UserError, match="frame stride 3, expected 7 and 1"):
        build("dirnet_smbr", reference=str(tmp_path / "other")).align(**batch)
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth is of another architecture"):
        build("dirnet_smbr", reference=str(tmp_path / "other.pth")).align(**batch)


WORKER = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from espnet2.torch_utils.recursive_op import recursive_average
from test_smbr_model import batch_of
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{{folder}}/meet", rank=rank, world_size=2)
model = torch.load(f"{{folder}}/model.pt", weights_only=False)
model = torch.nn.parallel.DistributedDataParallel(model)
batch = {{name: value[rank * 2 : rank * 2 + 2 + rank] for name, value in batch_of(5).items()}}  # 2 and 3 utterances
loss, stats, weight = model(**batch)  # what follows is ESPnet's Trainer.train_one_epoch
loss = (loss * weight.type(loss.dtype)).sum()
stats, weight = recursive_average(stats, weight, True)
loss = loss / weight * dist.get_world_size()
loss.backward()
if rank == 0:
    gradients = {{name: value.grad for name, value in model.module.named_parameters()}}
    torch.save((float(stats["loss"]), float(stats["loss_smbr"]), gradients), f"{{folder}}/told.pt")
dist.barrier()
"""


@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradient_of_one(build, tmp_path):  # noqa: F811
    model = build("dirnet_smbr")
    torch.save(model, tmp_path / "model.pt")
    loss, stats, _ = model(**batch_of(5))
    loss.backward()
    program = WORKER.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-c", program, str(rank), str(tmp_path)] for rank in range(2)]
    workers = [subprocess.Popen(command, env=environment) for command in commands]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    together, smbr, gradients = torch.load(tmp_path / "told.pt", weights_only=False)
    assert together == pytest.approx(loss.item(), rel=1e-4)
    assert smbr == pytest.approx(stats["loss_smbr"].item(), rel=1e-4)
    for name, value in model.named_parameters():
        torch.testing.assert_close(gradients[name], value.grad, rtol=1e-4, atol=1e-5)
