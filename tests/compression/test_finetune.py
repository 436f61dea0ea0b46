"""Zeros stay zero: through every step, optimizer and weight decay, resume, processes, devices, copies."""

import copy
import io
import multiprocessing
import os
import pickle

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.finetune import RestingSupport, refuse_changed_layout
from dirnet.compression.methods import Method
from dirnet.compression.support import MovingSupport, SupportSchedule, loosen, tighten
from dirnet.errors import UserError

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.5, amsgrad=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-2, momentum=0.5, weight_decay=0.1),
}


def compressed(method="dirnet", kind=nn.LSTM):
    torch.manual_seed(0)
    return dirnet.compress(kind(12, 16, 2), "4x", method, progress=False)[0]


def step(model, optimizer, seed):
    """One step on made-up data."""
    inputs = torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(inputs)[0].square().mean().backward()
    optimizer.step()


def zeros(model):
    """Where the dense codes of every group are zero."""
    return [matrix.code_matrix().detach() == 0 for matrix in model.groups]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["dirnet", "prune"])
def test_after_every_step_and_a_resume(name, method):
    model = compressed(method)
    before, empty = copy.deepcopy(model.state_dict()), zeros(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    for number in range(6):
        step(model, optimizer, number)
        refuse_changed_layout(before, model.state_dict())
        assert all(torch.equal(new, old) for new, old in zip(zeros(model), empty, strict=True))
    stored = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, stored)
    stored.seek(0)
    checkpoint = torch.load(stored, weights_only=True)
    again = compressed(method)
    again.load_state_dict(checkpoint["model"], strict=True)
    resumed = OPTIMIZERS[name](again.parameters())
    resumed.load_state_dict(checkpoint["optimizer"])
    for one, state in ((model, optimizer), (again, resumed)):
        step(one, state, 9)
    refuse_changed_layout(before, again.state_dict())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["dirnet", "prune", Method("dirnet", shifts=1)], ids=str)
def test_a_step_that_moves_a_code_is_caught(method):
    model = compressed(method)
    holder = nn.ModuleDict({"inner": model})
    support, optimizer = RestingSupport(holder), torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: support.step())
    for number in range(2):
        step(model, optimizer, number)
    index = model.groups[1].index
    index.copy_(index.clone())  # as DDP does
    step(model, optimizer, 2)
    model.to(torch.float64).to(torch.float32)
    step(model, optimizer, 3)
    changed = model.groups[1].index if model.groups[0].offsets is None else model.groups[1].offsets
    changed[-1] -= 1
    with pytest.raises(UserError, match="inner.groups.1.(index|offsets) changed in a training step"):
        step(model, optimizer, 4)


def test_to_another_type_and_back():
    model = compressed()
    before, empty = copy.deepcopy(model.state_dict()), zeros(model)
    model.to(torch.float64)
    assert model.groups[0].index.dtype == torch.int32
    step_in_double = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(4, 1, 12, dtype=torch.float64))[0].sum().backward()
    step_in_double.step()
    model.to(torch.float32)
    refuse_changed_layout(before, model.state_dict())
    assert all(torch.equal(new, old) for new, old in zip(zeros(model), empty, strict=True))
    meta = copy.deepcopy(model).to("meta")
    assert meta.layout == model.layout


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_copies_are_whole_and_their_own(kind):
    model = compressed(kind=kind)
    inputs = torch.randn(4, 2, 12)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(inputs)[0], model(inputs)[0]) and again.layout == model.layout
        step(again, torch.optim.SGD(again.parameters(), lr=0.1), 0)
        assert not torch.equal(again(inputs)[0], model(inputs)[0])
    state = model.state_dict()
    assert model.load_state_dict(state, strict=True).missing_keys == []
    with pytest.raises(RuntimeError, match="Missing key.*groups.0.index"):
        model.load_state_dict({name: value for name, value in state.items() if name != "groups.0.index"})


@pytest.mark.parametrize("method", ["dirnet", "dirnet_int8"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_torch_compile_gives_the_same_outputs_and_gradients(kind, method):
    model = compressed(method, kind)
    inputs = torch.randn(4, 2, 12)
    plain = model(inputs)[0]
    plain.square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch._dynamo.reset()
    shown = torch.compile(model, backend="aot_eager")(inputs)[0]
    torch.testing.assert_close(shown, plain)
    shown.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def one_process(rank, folder):
    """Steps of DDP, each process with data of its own, with the support at rest and moving."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(os.path.join(folder, "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for kind in ("fixed", "gradual", "regrow"):
        model = compressed("prune")
        before = copy.deepcopy(model.state_dict())
        kept = () if kind == "fixed" else loosen(model)
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-2, weight_decay=0.1)
        support = None if kind == "fixed" else MovingSupport(model, SupportSchedule(kind, kept, regrow=0.5))
        for number in range(6):
            step(parallel, optimizer, 10 * rank + number)
            if support is None:
                refuse_changed_layout(before, model.state_dict())
            else:
                support.step((number + 1) / 6)
        if support is not None:
            tighten(model, kept)
        torch.save(model.state_dict(), os.path.join(folder, f"{kind}{rank}.pth"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=one_process, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)  # on a busy machine imports alone take minutes
        assert process.exitcode == 0
    start = compressed("prune").state_dict()
    for kind in ("fixed", "gradual", "regrow"):
        first, second = (torch.load(tmp_path / f"{kind}{rank}.pth") for rank in (0, 1))
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        assert not torch.equal(first["groups.0.codes"], start["groups.0.codes"])
        assert torch.equal(first["groups.1.index"], start["groups.1.index"]) == (kind != "regrow")
