"""What sMBR's denominator costs beside the network's own forward and backward pass, and what memory it takes.

    python -m bench.smbr_speed --threads 1 2 --order 2 3

The paper's network, 5 layers of 500 LSTM units at every third frame, on a batch of 32 utterances of 10 s; 41 phones
with an n-gram of random transcripts. Every figure is the shortest of `--repeats`, in CPU time of the process: other
programs on the machine do not count. The memory is for one utterance of `--frames` frames.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dirnet.asr.denominator import DenominatorGraph
from dirnet.asr.lexicon import OUTPUTS
from dirnet.asr.phone_ngram import PhoneNgram
from dirnet.asr.smbr import expected_accuracy, smbr_loss
from dirnet.errors import one_line_errors
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.options import Parser
from dirnet.provenance import cpu_name

STRIDE, FRAMES = 3, 1000  # network outputs every third of so many 10 ms frames


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print one line of time for every order and number of threads, then one of memory for every order."""
    parser = Parser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--order", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frames", type=int, default=3000, help="of the utterance whose memory is measured")
    arguments = parser.parse_args(argv)
    graphs = {order: DenominatorGraph.build(random_ngram(order)) for order in arguments.order}
    print(f"{cpu_name()}, torch {torch.__version__}")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        network = shortest(network_pass(arguments.batch), arguments.repeats)
        for order, graph in graphs.items():
            loss = shortest(loss_pass(graph, arguments.batch), arguments.repeats)
            print(
                f"{threads} threads, order {order}, {len(graph.enter)} states: loss {loss:.3f} s, "
                f"network {network:.3f} s, ratio {loss / network:.3f}"
            )
    for order, graph in graphs.items():
        chunk = int(arguments.frames**0.5)
        pieces, whole = (peak_bytes(graph, arguments.frames, held) for held in (chunk, arguments.frames))
        told = f"{whole / 1e6:.1f} MB at once, {pieces / 1e6:.1f} MB by {chunk}"
        print(f"order {order}, {arguments.frames} frames: {told}")
    return 0


def random_ngram(order: int) -> PhoneNgram:
    """An n-gram of 2,000 transcripts of 40 phones, in which six successors of a phone are likelier than others."""
    random = np.random.default_rng(0)
    lines = []
    for _ in range(2000):
        line = [int(random.integers(41))]
        while len(line) < 40:
            line.append(int((line[-1] * random.choice([3, 7]) + random.integers(3)) % 41))
        lines.append([[(1.0, line)]])
    return PhoneNgram.estimate(lines, 41, order)


def network_pass(batch: int) -> Callable[[], None]:
    """Forward and backward of the network."""
    model = AcousticModel(
        AcousticModelConfig(
            rnn_type="lstm", hidden_size=500, num_layers=5, frame_stride=STRIDE, phones=OUTPUTS,
            cmvn_mean=(0.0,) * 26, cmvn_istd=(1.0,) * 26,
        )
    ).train()  # fmt: skip
    features, lengths = torch.randn(batch, FRAMES, 26), torch.full((batch,), FRAMES)
    return lambda: model(features, lengths)[0].sum().backward()


def loss_pass(graph: DenominatorGraph, batch: int) -> Callable[[], None]:
    """The loss and its gradient."""
    log_probs, lengths, path = random_posteriors(batch, -(-FRAMES // STRIDE))
    log_probs.requires_grad_()
    graph = graph.to(torch.device("cpu"), torch.float32)
    return lambda: smbr_loss(log_probs, lengths, path, graph)[0].sum().backward()


def random_posteriors(batch: int, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-posteriors (B, T, 42), lengths and their best paths."""
    log_probs = (3 * torch.randn(batch, frames, len(OUTPUTS))).log_softmax(-1)
    return log_probs, torch.full((batch,), frames), log_probs.argmax(-1)


def shortest(work: Callable[[], None], repeats: int) -> float:
    """CPU seconds over the threads in use, so that they compare with the clock of a free machine."""
    work()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times) / torch.get_num_threads()


def peak_bytes(graph: DenominatorGraph, frames: int, chunk: int) -> int:
    """How much the process grows at most while it computes one utterance (Linux)."""
    log_probs, lengths, path = random_posteriors(1, frames)
    accuracy = torch.nn.functional.one_hot(path, log_probs.shape[2]).float()
    graph = graph.to(torch.device("cpu"), torch.float32)
    expected_accuracy(log_probs[:, :5], lengths.clamp_max(5), accuracy[:, :5], graph)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would not make the process grow
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present size from here on
    before = _status("VmRSS")
    expected_accuracy(log_probs, lengths, accuracy, graph, chunk=chunk)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
