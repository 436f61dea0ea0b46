"""Cells build their factors once a sequence, and anew wherever the last ones would be wrong."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
from torch import nn

from dirnet.nn.cells import CELLS, DirNetCell

FRAMES = 4


@pytest.fixture(params=[nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def cell(request) -> DirNetCell:
    torch.manual_seed(0)
    columns = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}[request.param] * 6
    return CELLS[request.param](5, 6, layout=[[3, columns], [3, 2 * columns]])


@pytest.fixture
def built(monkeypatch) -> list[DirNetCell]:
    """Which cell built its factors, a line a time."""
    builds, build = [], DirNetCell._factors
    monkeypatch.setattr(DirNetCell, "_factors", lambda self: builds.append(self) or build(self))
    return builds


def hidden(state):
    return state[0] if isinstance(state, tuple) else state


def of_each(state, change):
    """`state` with `change` of its tensors."""
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def unrolled(cell, frames, between=lambda state: state):
    """The hidden states of all frames; `between` gives what the next step is given."""
    state, outputs = None, []
    for frame in frames:
        state = cell(frame, state if state is None else between(state))
        outputs.append(hidden(state))
    return torch.stack(outputs)


def test_one_build_a_sequence_with_the_outputs_and_gradients_of_one_a_step(cell, built):
    frames = torch.randn(FRAMES, 2, 5)
    found = []
    for between in (lambda state: state, lambda state: of_each(state, torch.clone)):
        built.clear()
        cell.zero_grad()
        outputs = unrolled(cell, frames, between)
        outputs.square().sum().backward()
        found.append((len(built), [outputs.detach()] + [parameter.grad.clone() for parameter in cell.parameters()]))
    (once, expected), (each, copied) = found
    assert (once, each) == (1, FRAMES)
    torch.testing.assert_close(expected, copied)


def test_sequences_side_by_side_keep_their_own(cell, built):
    frames = torch.randn(FRAMES, 2, 5)
    one = other = None
    for frame in frames:
        one, other = cell(frame, one), cell(-frame, other)
    assert len(built) == 2
    torch.testing.assert_close(hidden(one), unrolled(cell, frames)[-1])
    torch.testing.assert_close(hidden(other), unrolled(cell, -frames)[-1])


@torch.no_grad()
def step(cell, change):
    for parameter in cell.parameters():
        change(parameter)


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced", "optimizer"])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_changed_parameter_is_seen_in_mid_sequence(cell, built, change, gradients):
    frame = torch.randn(2, 5)
    with torch.set_grad_enabled(gradients):
        state = cell(frame)
        if change == "in place":
            step(cell, lambda parameter: parameter.add_(0.1))
        elif change == "loaded":
            cell.load_state_dict({name: value + 0.1 if value.is_floating_point() else value
                                  for name, value in cell.state_dict().items()})  # fmt: skip
        elif change == "replaced":
            before = cell.groups[1].codes
            after = nn.Parameter(before.detach() + 0.1)
            while after._version < before._version:  # nothing but the tensor itself tells them apart
                torch.autograd.graph.increment_version(after)
            cell.groups[1].codes = after
        else:
            for parameter in cell.parameters():
                parameter.grad = torch.ones_like(parameter)
            torch.optim.Adam(cell.parameters()).step()
        after = cell(frame, state)
        assert len(built) == 2
        torch.testing.assert_close(after, copy.deepcopy(cell)(frame, state))


def test_what_is_unfrozen_in_mid_sequence_gets_its_gradient(cell):
    """Of the second step, as if nothing had been kept."""
    frame, gradients = torch.randn(2, 5), []
    for between in (lambda state: state, lambda state: of_each(state, torch.clone)):
        cell.zero_grad()
        cell.groups.requires_grad_(False)
        state = cell(frame)
        cell.groups.requires_grad_(True)
        hidden(cell(frame, between(state))).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in cell.groups.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_moved_index_is_seen_in_mid_sequence(cell, built):
    frame = torch.randn(2, 5)
    state = cell(frame)
    cell.groups[1].index[-1] += 1  # the last place but one becomes the last
    cell(frame, state)
    assert len(built) == 2


def test_a_cast_cell_is_seen_in_mid_sequence(cell):
    cell = type(cell)(5, 6, layout=[[None, 10], [None, 12]])  # without D, which is a parameter itself
    frame = torch.randn(2, 5)
    state = cell(frame)
    with pytest.raises(RuntimeError, match="same dtype"):  # as torch's cell, which would not go on in float32
        cell.double()(frame, state)


@pytest.mark.parametrize("detach", [torch.Tensor.detach, torch.Tensor.detach_])
def test_truncated_backpropagation(cell, detach):
    """Two passes backward, the state handed on between them: the gradients are those of a cell that keeps nothing."""
    frames, gradients = torch.randn(2, FRAMES, 2, 5), []
    for between in (lambda state: state, lambda state: of_each(state, torch.clone)):
        cell.zero_grad()
        state = None
        for part in frames:
            for frame in part:
                state = cell(frame, state if state is None else between(state))
            hidden(state).square().sum().backward()
            state = of_each(state, detach)
        gradients.append([parameter.grad.clone() for parameter in cell.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_switch_of_gradients_builds_anew(cell, built):
    frame = torch.randn(2, 5)
    with torch.no_grad():
        state = cell(frame)
    after = cell(frame, state)
    assert len(built) == 2
    hidden(after).sum().backward()
    assert all(group.codes.grad is not None for group in cell.groups)
    with torch.inference_mode():
        cell(frame, cell(frame, state))
    assert len(built) == 3


def test_a_switch_of_casts_builds_anew(built):
    cell = CELLS[nn.LSTMCell](5, 6, layout=[[3, 24], [3, 24]], shifts=1)  # W itself is built, in the type of the cast
    frame = torch.randn(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = cell(frame)
    after = cell(frame, tuple(part.float() for part in state))
    assert after[0].dtype == torch.float32
    cell(frame, after)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = cell(frame, after)
    assert len(built) == 3
    with torch.autocast("cpu", dtype=torch.float16):
        cell(frame, after)
    assert len(built) == 4


def test_factors_go_with_the_state(cell):
    state = cell(torch.randn(2, 5))
    assert len(cell._sequences._steps) == 1
    del state
    gc.collect()
    assert not cell._sequences._steps


def test_copies_and_files_in_mid_sequence(cell):
    frame = torch.randn(2, 5)
    state = cell(frame)
    stream = io.BytesIO()
    torch.save(cell, stream)
    stream.seek(0)
    copies = [copy.deepcopy(cell), pickle.loads(pickle.dumps(cell)), torch.load(stream, weights_only=False)]
    expected = cell(frame, state)
    for other in copies:
        assert not other._sequences._steps
        torch.testing.assert_close(other(frame, state), expected)
    step(cell, torch.Tensor.zero_)
    torch.testing.assert_close(copies[0](frame, state), expected)


def test_compiled_without_a_break(cell):
    frames = torch.randn(FRAMES, 2, 5)
    compiled = torch.compile(cell, backend="eager", fullgraph=True)
    torch.testing.assert_close(unrolled(compiled, frames), unrolled(cell, frames))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_torch_does_with_modules(cell):
    """Tracing, export, meta tensors, functional calls and checkpoints see what a cell that keeps nothing would show."""
    frames, state = torch.randn(3, 2, 5), torch.randn(3, 2, 6)
    state = (state, torch.randn(3, 2, 6)) if isinstance(cell, nn.LSTMCell) else state

    def twice(frame, state):
        return hidden(cell(frame, cell(frame, state)))

    expected = [twice(frame, of_each(state, lambda part, at=at: part[at])) for at, frame in enumerate(frames)]
    torch.testing.assert_close(torch.func.vmap(twice)(frames, state), torch.stack(expected))
    first = (frames[0], of_each(state, lambda part: part[0]))
    for program in (torch.jit.trace(cell, first), torch.export.export(cell, first).module()):
        torch.testing.assert_close(program(*first), cell(*first))
    gradients = []
    for run in (twice, lambda *inputs: torch.utils.checkpoint.checkpoint(twice, *inputs, use_reentrant=False)):
        gradients.append(torch.autograd.grad(run(*first).square().sum(), list(cell.parameters())))
    torch.testing.assert_close(*gradients)

    def loss(parameters):
        after = torch.func.functional_call(cell, parameters, first)
        return hidden(torch.func.functional_call(cell, parameters, (frames[0], after))).square().sum()

    found = torch.func.grad(loss)(dict(cell.named_parameters()))
    torch.testing.assert_close(tuple(found.values()), gradients[0])
    nothing = copy.deepcopy(cell).to("meta")
    assert hidden(nothing(frames[0].to("meta"))).shape == (2, 6)
