"""How fast a compressed model trains next to the dense one: `python -m bench.training_speed --threads 1 2`.

One line per model: milliseconds of a step (forward, backward, Adam), and the dense model's time over its own. The goal
is a ratio of at least 0.5. The rounds of all models alternate, so that a busy machine slows them alike.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dirnet.compression.support import MovingSupport, SupportSchedule, coded_matrices, loosen
from dirnet.config import boolean
from dirnet.errors import UserError, one_line_errors
from dirnet.nn.cells import CELLS
from dirnet.nn.coding import CodedLayer
from dirnet.nn.grouping import groups_of
from dirnet.nn.recurrent import coded_class
from dirnet.options import Parser

RNNS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print one line per model, batch size, number of threads and device."""
    parser = Parser(description=__doc__)
    parser.add_argument("--rnn", choices=sorted(RNNS), default="lstm")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--cell", type=boolean, default=False, help="true: a cell, called frame by frame as a decoder "
                        "does; give --layers 1")  # fmt: skip
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--inputs", type=int, default=494, help="values of a frame: 19 x 26 in the paper")
    parser.add_argument("--size", type=float, default=7.9, help="times fewer parameters")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--frames", type=int, default=100, help="steps of an utterance; a long one has 500")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each model; the median counts")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of the CPU; no effect on cuda")
    parser.add_argument("--device", choices=["cpu", "cuda", "all"], default="all", help="all: cuda where there is one")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but torch sees none; use cpu")
    if arguments.cell and arguments.layers != 1:
        raise UserError(f"--layers is {arguments.layers}, expected 1 with --cell true")
    models = build(arguments)
    places = [("cpu", threads) for threads in arguments.threads] if arguments.device != "cuda" else []
    places += [("cuda", 0)] if arguments.device != "cpu" and torch.cuda.is_available() else []
    for device, threads in places:
        torch.set_num_threads(threads or 1)
        for batch in arguments.batch:
            where = f"{device}, {threads} threads" if threads else torch.cuda.get_device_name()
            inputs = torch.randn(batch, arguments.frames, arguments.inputs, device=device)
            steps = {name: trainer(*model, device, inputs) for name, model in models.items()}
            times = medians(steps, arguments.rounds, device)
            for name, seconds in times.items():
                ratio = times["dense"] / seconds
                print(f"{where}, batch {batch}: {name:<22} {1e3 * seconds:9.1f} ms a step, {ratio:5.2f} of dense speed")
    return 0


def build(arguments: argparse.Namespace) -> dict[str, tuple[nn.Module, bool]]:
    """The models by name, and whether their support moves. What the codes are does not matter to the time: random."""
    torch.manual_seed(0)
    sizes = (arguments.inputs, arguments.hidden, arguments.layers)
    dense = RNNS[arguments.rnn](*sizes, batch_first=True)
    groups, coded = groups_of(dense), coded_class(dense)
    part = 1 / arguments.size

    def empty(layout: list[list[int | None]], **coding) -> nn.Module:
        return coded(*sizes, layout=layout, batch_first=True, **coding)

    def halves(group, block: int = 1) -> list[int]:
        """Atoms that take half of the budget, and blocks that take the other half, or all that there are."""
        atoms = max(1, min(group.rows, int(part * group.columns / 2)))
        return [atoms, min(int(part * group.rows * group.columns / 2), atoms * group.columns) // block]

    models = {
        "dense": dense,
        "dirnet": empty([halves(g) for g in groups]),
        "dirnet, int8": empty([halves(g) for g in groups], dtype="int8"),
        "dirnet, shifts": empty([halves(g) for g in groups], shifts=1),
        "dirnet, 8x1 blocks": empty([halves(g, 8) for g in groups], block=8),
        "dirnet, 8x1, int8": empty([halves(g, 8) for g in groups], block=8, dtype="int8"),
        "svd": empty([[max(1, int(part * g.rows * g.columns / (g.rows + g.columns))), None] for g in groups]),
        "prune": empty([[None, int(part * g.rows * g.columns)] for g in groups]),
    }
    if arguments.cell:
        models = {name: Unrolled(model) for name, model in models.items()}
    moving = {"prune, gradual": copy.deepcopy(models["prune"]), "dirnet, regrow": copy.deepcopy(models["dirnet"])}
    return {name: (model, False) for name, model in models.items()} | {n: (m, True) for n, m in moving.items()}


class Unrolled(nn.Module):
    """The cell that stands for a layer of one direction, over all frames of (B, T, n)."""

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        dense = next(cell for cell, coded in CELLS.items() if isinstance(layer, coded.layer_class.dense_class))
        if isinstance(layer, CodedLayer):
            self.cell = CELLS[dense].from_layer(layer)
        else:
            self.cell = dense(layer.input_size, layer.hidden_size)

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        state, outputs = None, []
        for frame in inputs.unbind(1):
            state = self.cell(frame, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, dim=1), None


def trainer(model: nn.Module, moves: bool, device: str, inputs: Tensor) -> Callable[[], None]:
    """One training step of a copy of `model` on `device`."""
    model = copy.deepcopy(model).to(device)
    kept = loosen(model) if moves else None
    support = None
    if kept:
        kind = "gradual" if coded_matrices(model)[0].atoms is None else "regrow"
        support = MovingSupport(model, SupportSchedule(kind, kept))
        support.step(0.5)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(inputs)[0].square().mean().backward()
        optimizer.step()
        if support:
            support.step(0.5)  # between two moves of the support, as 99 % of the steps are

    return step


def medians(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of every step, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append(time.perf_counter() - started)
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}


if __name__ == "__main__":
    main()
