"""What a model costs to run: counts of work per output frame, and the seconds that a unit of each takes on a device.

The counts follow our kernels (`dirnet/deploy/csrc/kernels.h`): what the recurrence needs runs frame by frame
(`single`), everything else with the weights shared by a few frames (`tiled`); sparse codes cost by the block executed
and by the block column of every 256 rows, with a mask by the place: floats wherever they are read, int8 once a call,
then as dense ones. Int8 has rates of its own. The rates are measured by `dirnet cost`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from dirnet.config import from_mapping
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModelConfig
from dirnet.nn.grouping import GATES
from dirnet.nn.indices import is_masked, runs

BLOCKS = (16, 8, 4, 2, 1)  # that the kernels execute; others are cut into the widest of these
FORMAT = "dirnet-cost/3"
_GATES = {"lstm": GATES["LSTM"], "gru": GATES["GRU"], "rnn": GATES["RNN_TANH"]}


def group_counts(
    rows: int, columns: int, atoms: int | None, nonzeros: int | None, block: int, recurrent: float, int8: bool = False
) -> Counter[str]:
    """Work of one group: D (rows, atoms), or none, and Z with `nonzeros` codes, None for a dense one.

    recurrent: the share of the columns that the recurrence reads; the codes are taken to be spread evenly.
    """
    counts: Counter[str] = Counter()
    if atoms is not None:  # D^T h is computed once, in the recurrence if there is one
        counts["dense_single" if recurrent else "dense_tiled"] += rows * atoms
    code_rows = rows if atoms is None else atoms
    executed = executed_block(block)
    masked = nonzeros is not None and is_masked(code_rows, columns, nonzeros, executed)
    if masked and int8:
        counts["masked"] = code_rows * columns
    for mode, share in (("single", recurrent), ("tiled", 1 - recurrent)):
        if masked and not int8:
            counts[f"masked_{mode}"] += code_rows * columns * share
        elif nonzeros is None or masked:
            counts[f"dense_{mode}"] += code_rows * columns * share
        else:
            counts[f"codes{executed}_{mode}"] += nonzeros * share
            counts[f"columns_{mode}"] += runs(code_rows) * columns / executed * share
    return Counter({f"int8_{name}": count for name, count in counts.items()}) if int8 else counts


def executed_block(block: int) -> int:
    """The widest block that the kernels execute of those that a block can be cut into."""
    return next(size for size in BLOCKS if block % size == 0)


def rest_counts(config: AcousticModelConfig) -> Counter[str]:
    """Work outside the groups: windows, cells, the output layer and what a layer costs however small."""
    counts: Counter[str] = Counter(model=1, layers=config.num_layers, window=config.input_size)
    counts[f"{config.rnn_type}_units"] = config.num_layers * config.hidden_size
    counts["dense_tiled"] = config.hidden_size * config.num_outputs
    return counts


def group_shapes(config: AcousticModelConfig) -> list[tuple[int, int, float]]:
    """Rows, columns and recurrent share of every group of a unidirectional model, in the order of `groups_of`."""
    size, width = config.hidden_size, _GATES[config.rnn_type] * config.hidden_size
    return [(config.input_size, width, 0.0), *[(size, 2 * width, 0.5)] * (config.num_layers - 1), (size, width, 1.0)]


def is_timed(config: AcousticModelConfig) -> bool:
    """Whether the counts below know such a model: one direction, atoms that stay where they are, a group a vector."""
    return not config.bidirectional and not config.shifts and config.input_group != "shared"


def model_counts(config: AcousticModelConfig) -> Counter[str]:
    """Work of a whole model, dense or compressed, by its configuration; one that is not timed is a `UserError`."""
    if config.bidirectional:
        raise UserError("a bidirectional model has no real-time factor as a stream; give a size in params or bytes")
    if not is_timed(config):
        raise UserError("the cost model knows neither shifts nor a shared input group; give a size in params or bytes")
    counts = rest_counts(config)
    shapes = group_shapes(config)
    layouts = config.compression or [[None, None]] * len(shapes)
    for (rows, columns, recurrent), (atoms, blocks) in zip(shapes, layouts, strict=True):
        nonzeros = None if blocks is None else blocks * config.block
        counts += group_counts(rows, columns, atoms, nonzeros, config.block, recurrent, config.dtype == "int8")
    return counts


@dataclass(frozen=True)
class CostModel:
    """Measured `rates`: seconds per unit of each count, on `device` with `threads`, in calls of `chunk` outputs.

    error: median and worst relative difference between measured and fitted programs.
    """

    device: str
    threads: int
    chunk: int
    rates: dict
    error: dict
    format: str = FORMAT

    def seconds(self, counts: Counter[str]) -> float:
        """Seconds that this work takes per output frame; a count without a rate is a `UserError`."""
        if unknown := sorted(counts.keys() - self.rates.keys()):
            raise UserError(f"the cost model has no rate for {', '.join(unknown)}; measure it anew with `dirnet cost`")
        return sum(self.rates[name] * count for name, count in counts.items())

    def to_json(self) -> str:
        """The text of `cost.json`."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def frame_seconds(config: AcousticModelConfig) -> float:
    """Audio that one output frame stands for."""
    return config.frame_shift_ms * config.frame_stride / 1000


def load_cost_model(path: str | Path, device: str, threads: int) -> CostModel:
    """The cost model in `path`, if it was measured on `device` with `threads`; anything else is a `UserError`."""
    again = "write it with `dirnet cost --out cost.json`"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"cost model {path} is not there; {again}") from None
    except ValueError as error:
        raise UserError(f"cost model {path} is not JSON ({error}); {again}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"cost model {path} is not of format {FORMAT}; {again}")
    model = from_mapping(CostModel, content, str(path))
    bad = [name for name, rate in model.rates.items() if not isinstance(rate, (int, float)) or not 0 <= rate < 1]
    if bad or not model.rates:
        raise UserError(f"cost model {path}: rate {bad[:1]} is no time in seconds; {again}")
    for name, found, wanted in (("device", model.device, device), ("threads", model.threads, threads)):
        if found != wanted:
            raise UserError(f"cost model {path} was measured with {name} {found!r}, not {wanted!r}; {again} there, or "
                            f"say what the model is meant for: --{name} {found!r}")  # fmt: skip
    return model
