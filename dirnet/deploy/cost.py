"""A cost model of our kernels on this host: what a size in `rtf` is counted with.

    dirnet cost --out cost.json
    dirnet compress --size rtf=0.01 --cost_model cost.json ...

Small models of many shapes (units, layers, atoms, density, block, cell) with random weights are exported and timed in
turns, like `dirnet rtf` times one; non-negative rates of the counts of `dirnet.nn.running` are fitted to their median
times, the relative error being what counts. A fifth of the models is kept out of a first fit, and tells how far the
rates predict models that they have not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from dirnet.deploy import library, timing
from dirnet.deploy.engines import program_engine
from dirnet.deploy.export import DEFAULT_CHUNK, constants, speech_like, streaming_model
from dirnet.deploy.lowering import lower
from dirnet.deploy.program import Program
from dirnet.deploy.rtf import check_seconds, check_threads
from dirnet.errors import one_line_errors
from dirnet.files import atomic_write, check_place
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.running import BLOCKS, CostModel, group_shapes, model_counts
from dirnet.options import Parser
from dirnet.progress import progress
from dirnet.provenance import cpu_name

PHONES = tuple(f"p{phone}" for phone in range(42))
CHUNK = DEFAULT_CHUNK["dirnet"]
HELD_OUT = 5  # every so many-th model
UNITS, LAYERS = (96, 160, 256, 384, 480), (1, 2, 3)


def grid(seed: int = 0) -> list[AcousticModelConfig]:
    """Configurations that between them use every count: six models per block and type; dense ones, GRUs and RNNs."""
    draw = np.random.default_rng(seed)
    lstms = [("lstm", block) for block in BLOCKS for _ in range(6)] + [("lstm", 0)] * 8
    kinds = [(*kind, "float32") for kind in lstms] + [(*kind, "int8") for kind in lstms]
    kinds += [(cell, block, "float32") for cell in ("gru", "rnn") for block in (0, 1, 8, 8)]
    configs = []
    for at, (cell, block, dtype) in enumerate(kinds):
        units, layers = int(draw.choice(UNITS)), int(draw.choice(LAYERS))
        config = AcousticModelConfig(cell, units, layers, PHONES, context=int(draw.choice((4, 9))), block=max(block, 1))
        layout = []
        for rows, columns, _ in group_shapes(config):
            atoms = None if at % 4 == 3 else max(int(rows * draw.uniform(0.1, 0.6)), 4)
            places = (rows if atoms is None else atoms) * columns // config.block
            density = draw.uniform(0.05, 0.5) / (8 if block == 1 and at % 2 else 1)  # too few for a mask
            layout.append([atoms, max(int(places * density), 1) if block else None])
        whole = dtype == "float32" and all(item == [None, None] for item in layout)
        configs.append(_with(config, dtype, None if whole else tuple(layout)))
    return configs


def _with(config: AcousticModelConfig, dtype: str, layout: tuple | None) -> AcousticModelConfig:
    changes = {"phones": PHONES, "dtype": dtype, "compression": layout}
    return AcousticModelConfig(**{**config.to_mapping(), **changes})


def measured(configs: Sequence[AcousticModelConfig], seconds: float, threads: int) -> list[float]:
    """Median seconds per output frame of a model of each configuration, all in turns."""
    engines = []
    with timing.pinned(threads):
        for config in progress(configs, len(configs), "export", "model"):
            engines.append(_engine(config))
        timings = timing.in_turns(engines, seconds, threads)
    return [timings[id(engine)].us() / 1e6 for engine in engines]


def _engine(config: AcousticModelConfig) -> timing.Engine:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AcousticModel(config).eval()
    streaming = streaming_model(model, "dirnet", CHUNK)
    program = Program("a model to time", lower(streaming, constants(model, streaming, CHUNK, "")).content)
    return program_engine(program, CHUNK, speech_like(model.cmvn_mean, model.cmvn_istd, 200))


def fit(counts: Sequence[dict[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """The non-negative rates (seconds per unit) with the least squared relative error of `sum rate * count`."""
    names = sorted(set().union(*counts))
    design = np.array([[row.get(name, 0.0) for name in names] for row in counts]) / np.array(seconds)[:, None]
    scale = np.linalg.norm(design, axis=0)
    rates, _ = nnls(design / scale, np.ones(len(design)))
    return {name: float(rate) for name, rate in zip(names, rates / scale, strict=True)}


def cost_model(seconds: float, threads: int) -> CostModel:
    """Measure `grid()` with `seconds` of audio per model, and fit."""
    configs = grid()
    counts, times = [model_counts(config) for config in configs], measured(configs, seconds, threads)
    seen = [at for at in range(len(configs)) if at % HELD_OUT]
    first = fit([counts[at] for at in seen], [times[at] for at in seen])
    unseen = _errors(first, [counts[at] for at in range(0, len(configs), HELD_OUT)], times[::HELD_OUT])
    rates = fit(counts, times)
    own = _errors(rates, counts, times)
    error = {
        "models": len(configs), "median": float(np.median(own)), "worst": float(own.max()),
        "held_out_median": float(np.median(unseen)), "held_out_worst": float(unseen.max()),
    }  # fmt: skip
    return CostModel(cpu_name(), threads, CHUNK, rates, error)


def _errors(rates: dict[str, float], counts: Sequence[dict[str, float]], seconds: Sequence[float]) -> np.ndarray:
    """Relative differences between predicted and measured."""
    predicted = [sum(rates.get(name, 0.0) * count for name, count in row.items()) for row in counts]
    return np.abs(np.array(predicted) / np.array(seconds) - 1)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure this host's kernels and write the cost model."""
    parser = Parser(prog="dirnet cost", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="the cost model to write, cost.json")
    parser.add_argument("--threads", type=int, default=1, help="cores to pin to (default 1)")
    parser.add_argument("--seconds", type=float, default=100.0, help="audio per model (default 100)")
    options = parser.parse_args(argv)
    check_threads(options.threads)
    check_seconds(options.seconds)
    check_place(options.out)
    library.load()  # a missing compiler is told before the work
    print(f"exporting and timing {len(grid())} small models, which takes about ten minutes", flush=True)
    model = cost_model(options.seconds, options.threads)
    with atomic_write(options.out) as stream:
        stream.write(model.to_json())
    error = model.error
    told = {name: f"{100 * error[name]:.1f} %" for name in error if name != "models"}
    threads = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    print(f"{options.out}: {len(model.rates)} rates of {model.device}, {threads}; {error['models']} models "
          f"fitted within {told['median']} (worst {told['worst']}), "
          f"unseen ones within {told['held_out_median']} (worst {told['held_out_worst']})")  # fmt: skip
    if error["held_out_median"] > 0.1:
        print("note: over 10 % for unseen models: was the machine busy? measure again on a quiet one", file=sys.stderr)
    return 0


if __name__ == "__main__":
    main()
