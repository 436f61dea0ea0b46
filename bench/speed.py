"""Every engine on a 5x500 LSTM and on its compressed versions: `python -m bench.speed --out exp/speed`.

Dense, SVD and DirNet models (single codes, blocks of 8 and 16; fp32 and int8) at `--size` fewer parameters, with random
weights: what they are does not matter to the time. They are written to `--out` and exported there once, then compared
as `dirnet rtf --compare` does it. Printed are Markdown tables and the goals beside what was measured: ten minutes of a
core at first, five when the programs are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from dirnet.deploy import measuring, runner
from dirnet.deploy.export import export, is_current
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.running import group_shapes
from dirnet.options import Parser
from dirnet.progress import progress
from dirnet.provenance import cpu_name
from dirnet.report import timings

PHONES = tuple(f"p{phone}" for phone in range(42))
BLOCKS = (8, 16)  # what the goals are about
TOLERANCE = 0.02  # of the size that was asked for, in parameters
SHARES = {1: 0.4, 8: 0.3, 16: 0.3}  # of a group's parameters, for its dictionary, as the solver chooses with blocks of
# so many codes; more if codes need it


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write and export the models, measure everything, print table and goals."""
    parser = Parser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for models, programs and rtf.json")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--size", type=float, default=7.9, help="times fewer parameters (default 7.9)")
    parser.add_argument("--seconds", type=float, default=20.0, help="audio per engine (default 20)")
    parser.add_argument("--chunks", type=int, nargs="+", default=list(measuring.CHUNKS), help="outputs per call")
    parser.add_argument("--engine", choices=("python", "cpp"), default="python",
                        help="what calls the programs: python, or the C++ runner, with hot caches only")  # fmt: skip
    parser.add_argument("--xnnpack_chunks", type=int, nargs="+", default=[1], help="of the dense XNNPACK programs")
    arguments = parser.parse_args(argv)
    configs = models(arguments.layers, arguments.hidden, arguments.size)
    folders = {name: arguments.out / name for name in configs}
    for name in progress(configs, len(configs), "export", "model"):
        write(configs[name], folders[name])
    target = runner.Host() if arguments.engine == "cpp" else None
    caches = measuring.CACHES if target is None else ("hot",)
    how = measuring.Settings(arguments.seconds, 1, arguments.chunks, caches, arguments.xnnpack_chunks, target)
    with target or contextlib.nullcontext():
        measured = measuring.measure(list(folders.values()), None, None, how)
    results = {name: measured[folder] for name, folder in folders.items()}
    with atomic_write(arguments.out / "speed.json") as stream:
        stream.write(json.dumps(results, indent=1) + "\n")
    load = results["dense"]["load_average"]
    print(f"{cpu_name()}, 1 thread{f', load average {load[0]:.1f}' if load else ''}; called from {arguments.engine}; "
          f"LSTM {arguments.layers}x{arguments.hidden}, {arguments.size:g}x fewer parameters\n")  # fmt: skip
    print(timings.markdown(results))
    print(f"{timings.NOTE}\n")
    print("\n".join(goals(results)))
    return 0


def models(layers: int, hidden: int, size: float) -> dict[str, AcousticModelConfig]:
    """Configurations by name: every group by the same factor, the SVD in the bytes of DirNet with blocks of 16."""
    dense = AcousticModelConfig("lstm", hidden, layers, PHONES, name="dense")
    shapes = [(rows, columns) for rows, columns, _ in group_shapes(dense)]
    whole = params(dense)
    matrices = sum(rows * columns for rows, columns in shapes)
    part = (whole / size - (whole - matrices)) / matrices
    if not 0 < part < 1:
        raise UserError(f"--size is {size:g}, expected more than 1 and less than {whole / (whole - matrices):.1f} here")
    found = {"dense": dense}
    for dtype, suffix in (("float32", ""), ("int8", "_int8")):
        for block, part_of_atoms in SHARES.items():
            layout = []
            for rows, columns in shapes:
                most, least = part * columns, part * rows * columns / (rows + columns)  # no codes; dense ones
                share = part_of_atoms * most
                atoms = min(round(share if share > least else (least + most) / 2), rows // 2)
                layout.append([atoms, round((part * rows * columns - rows * atoms) / block)])
            name = f"dirnet_b{block}{suffix}" if block > 1 else f"dirnet{suffix}"
            config = dataclasses.replace(dense, compression=tuple(layout), block=block, dtype=dtype, name=name)
            if abs(params(config) * size / whole - 1) > TOLERANCE:
                raise UserError(f"{name} has {params(config):,} parameters, not {whole / size:,.0f}: too small a model")
            found[name] = config
        found[f"svd{suffix}"] = _low_rank(found[name], shapes)
    return found


def _low_rank(like: AcousticModelConfig, shapes: Sequence[tuple[int, int]]) -> AcousticModelConfig:
    """Dense codes in as many bytes as `like` has with its indices: the same share of every group's full rank."""

    def config(share: float) -> AcousticModelConfig:
        layout = tuple([max(1, round(share * r * c / (r + c))), None] for r, c in shapes)
        return dataclasses.replace(like, compression=layout, block=1, name=like.name.replace("dirnet_b16", "svd"))

    target, low, high = stored(like), 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if stored(config(middle)) <= target else (low, middle)
    return config(low)


def params(config: AcousticModelConfig) -> int:
    """Parameters of a model with this configuration."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AcousticModel(config).parameters())


def stored(config: AcousticModelConfig) -> int:
    """Bytes that a model with this configuration is stored in."""
    with torch.device("meta"):
        return storage.stored_bytes(AcousticModel(config))


def write(config: AcousticModelConfig, folder: Path) -> None:
    """The model with random weights in `folder` and its program, unless they are there."""
    backend = "dirnet" if config.compression else "xnnpack"
    try:
        there = storage.describe(folder)["config"] == json.loads(json.dumps(config.to_mapping()))
    except UserError:
        there = False
    if not there:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            storage.save(AcousticModel(config).eval(), folder)
    if not is_current(folder, folder / "encoder.pte", backend, None):
        export(folder, folder / "encoder.pte", backend)


def goals(results: dict[str, dict[str, Any]]) -> list[str]:
    """One line per goal of the project, hot caches: wanted, measured, reached or not."""

    def rows(names: Iterable[str], dtype: str, chunks: Sequence[int] = ()) -> list[dict[str, Any]]:
        lines = [line for name in names for line in results[name]["engines"] if line["cache"] == "hot"]
        return [line for line in lines if line["dtype"] == dtype and (not chunks or line["chunk"] in chunks)]

    def least(wanted: float, key: str, dtype: str, chunks: Sequence[int] = ()) -> tuple[str, bool | None]:
        """The best of the block sizes at its worst chunk."""
        found = {name: [line.get(key) for line in rows([name], dtype, chunks)] for name in coded[dtype]}
        found = {name: min(values) for name, values in found.items() if values and None not in values}
        if not found:
            return "not measured", None
        name, value = max(found.items(), key=lambda item: item[1])
        return f"{value:.2f}x ({name})", value >= wanted

    coded = {"fp32": [f"dirnet_b{block}" for block in BLOCKS], "int8": [f"dirnet_b{block}_int8" for block in BLOCKS]}
    longer = sorted({line["chunk"] for line in results["dense"]["engines"]} - {1})
    ratios, reads = [], []
    for dtype in ("fp32", "int8"):
        svd = {line["chunk"]: line for line in rows(["svd" if dtype == "fp32" else "svd_int8"], dtype)}
        own = {line["chunk"]: line for line in rows([coded[dtype][-1]], dtype)}
        ratios += [own[c]["us_per_frame"]["p50"] / svd[c]["us_per_frame"]["p50"] for c in own if c in svd]
        reads += [line["read_ratio"] for line in own.values() if line["chunk"] == 1 and "read_ratio" in line]
    told = [
        ("fp32 over the fastest dense fp32, T = 1: at least 7.9x", *least(7.9, "speed_up", "fp32", (1,))),
        ("fp32 over the fastest dense fp32, T > 1: at least 6x", *least(6, "speed_up", "fp32", longer)),
        ("fp32 over the fastest dense int8, T = 1: at least 2x", *least(2, "speed_up_int8", "fp32", (1,))),
        ("int8 over the fastest dense int8, every T: at least 4x", *least(4, "speed_up_int8", "int8")),
        ("blocks of 16 over low rank of equal bytes, time, every T: at most 1", *_most(ratios, 1.0)),
        ("blocks of 16 over a pure read of the weights, time, T = 1: at most 1.5", *_most(reads, 1.5)),
    ]
    marks = {True: "reached", False: "missed", None: "-"}
    return [f"* {goal}: {value}, {marks[reached]}" for goal, value, reached in told]


def _most(values: Sequence[float], wanted: float) -> tuple[str, bool | None]:
    return (f"{max(values):.2f}", max(values) <= wanted) if values else ("not measured", None)


if __name__ == "__main__":
    main()
