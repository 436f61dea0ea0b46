"""From a trained model to a compressed one: find the groups, divide the budget, factorize, rebuild, report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dirnet.compression.budget import Price, parse_size
from dirnet.compression.groups import MatrixGroup, dense_rnns, replace
from dirnet.compression.guide import make_guide, move_biases
from dirnet.compression.methods import METHODS, Method, load_methods
from dirnet.compression.ordering import reorder
from dirnet.compression.parallel import workers
from dirnet.compression.picture import picture
from dirnet.compression.plan import describe_plan, make_plan
from dirnet.compression.report import group_figures, markdown, size_figures
from dirnet.compression.small import describe_small, small_model
from dirnet.config import boolean
from dirnet.errors import UserError, one_line_errors
from dirnet.factorization import Factors
from dirnet.files import atomic_write, read_json
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.cells import in_place_of, origin
from dirnet.nn.grouping import groups_of
from dirnet.nn.language import LanguageModel
from dirnet.nn.quantised import DTYPES, check_dtype
from dirnet.nn.recurrent import coded_class
from dirnet.nn.running import CostModel, frame_seconds, is_timed, load_cost_model, model_counts
from dirnet.options import Parser, seed
from dirnet.progress import Meter
from dirnet.provenance import cpu_name

Reader = Callable[[str, int, int], Iterable[Any]]  # (feats.scp, utterances, seed) -> (features, lengths) batches

PLANNING = 0.2  # of a group's time goes into its share of the budget


def compress(
    model: nn.Module,
    size: str = "7.9x",
    method: str | Method = "dirnet",
    block: int | None = None,
    preset: str | None = None,
    seed: int = 0,
    progress: bool = True,
    dtype: str | None = None,
    data: Iterable[Any] | None = None,
    nj: int = 1,
    cost_model: CostModel | None = None,
    states_inside: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Compress every nn.LSTM, nn.GRU, nn.RNN and cell of `model`, in place; returns the model and a report.

    Use the returned model: where `model` is itself an RNN it cannot be changed in place. size: of the whole model,
    everything uncompressed counted: `7.9x` fewer parameters, `1.3M` parameters, `2MB` as stored, or `rtf=0.05` by
    `cost_model` (see `dirnet.nn.running.load_cost_model`); the result is at most this. method: a name of `METHODS`,
    or a `Method`. block, preset, dtype: instead of the method's; with `int8` fine-tuning is quantisation-aware,
    biases and all else stay float32. Equal seeds give equal models. data: calibration data for methods that use it,
    an iterable of inputs of the model (see `dirnet.compression.calibration.calibrate`). Raises UserError for an
    unknown method, a size out of reach, or a model without RNNs. Solver `small` leaves `model` alone and returns a new,
    untrained one. nj: groups worked on at the same time, a core each; the result does not depend on it.
    states_inside: no RNN is given states but its own, and nothing else reads them (`h_n`); known of our own models.
    Only then do methods with blocks reorder hidden units; the report tells the order.
    """
    name = method if isinstance(method, str) else method.solver
    method = _resolved(method, METHODS, block, preset, dtype)
    if method.solver == "small":
        return small_model(model, parse_size(size), seed, {"method": name, "settings": dataclasses.asdict(method)})
    rnns = dense_rnns(model)
    dense = size_figures(model)
    dense_config = model.config if isinstance(model, AcousticModel) else None
    wanted = parse_size(size)
    total = sum(len(groups_of(rnn, method.grouping)) for rnn in rnns.values())
    with workers(nj) as mapped, Meter(total, "compress", "group", shown=progress) as meter:
        guide, orders = make_guide(model, method, data, seed), {}
        inside = states_inside or isinstance(model, AcousticModel | LanguageModel)
        if method.permute and method.block > 1 and inside:
            even = make_plan(model, wanted, dataclasses.replace(method, allocation="equal"), running=cost_model)
            guide, orders = reorder(model, method, even, guide)

        def planned(name: str) -> None:
            meter.tell(name, "allocate", PLANNING)

        plan = make_plan(model, wanted, method, guide, mapped, planned, cost_model)

        def factorize(at: int, group: MatrixGroup, price: Price, budget: int) -> tuple[Factors, dict[str, Any]]:
            def tell(fraction: float, stage: str) -> None:
                meter.tell(group.name, stage, PLANNING + (1 - PLANNING) * fraction)

            started, whole = time.monotonic(), budget >= price.dense  # kept as it is: weighting would only round it
            matrix = group.matrix if whole else guide.weighted(at, group.matrix)
            found, told = method.factorize(matrix, price, budget, seed, tell, group.recurrent)
            tell(1.0, "done")
            seconds = round(time.monotonic() - started, 2)
            found = found if whole else guide.restored(at, found)
            return found.balanced(), {"budget": budget, "seconds": seconds, "solver": told}

        solved = list(mapped(factorize, range(total), plan.groups, plan.prices, plan.budgets))
        if guide.statistics:
            lost = [group.matrix - found.reconstruct() for group, (found, _) in zip(plan.groups, solved, strict=True)]
            move_biases(rnns.values(), [guide.bias_step(at, matrix) for at, matrix in enumerate(lost)])
    replacements, rows = {}, []
    groups = iter(zip(plan.groups, [detail for _, detail in solved], strict=True))
    ready = iter([found for found, _ in solved])
    for rnn in rnns.values():
        count = len(groups_of(rnn, method.grouping))
        factors_here = [next(ready) for _ in range(count)]
        layer = coded_class(rnn).from_dense(rnn, factors_here, method.block, method.dtype, method.grouping)
        replacements[origin(rnn)] = in_place_of(rnn, layer)
        for coded in layer.groups:
            group, detail = next(groups)
            rows.append(group_figures(group.name, group.matrix, coded) | detail)
    model = replace(model, replacements)
    small = size_figures(model)
    report = {
        "method": name,
        "settings": dataclasses.asdict(method),
        "size": size,
        "limit": {"rtf": plan.size.value} if plan.size.kind == "rtf" else {plan.size.unit: plan.limit},
        "seed": seed,
        "dense": dense,
        "compressed": small,
        "ratio": dense["params"] / small["params"],
        "uncompressed": {unit: small[unit] - sum(row[unit] for row in rows) for unit in ("params", "bytes")},
        "relative_error": _together(plan.groups, rows),
        "groups": rows,
        "unit_orders": orders,
    }
    if cost_model is not None and isinstance(model, AcousticModel) and is_timed(model.config):
        report |= _running_time(cost_model, dense_config, model.config)
    return model, report


def _running_time(cost: CostModel, dense: AcousticModelConfig, small: AcousticModelConfig) -> dict[str, Any]:
    """The real-time factors that the cost model predicts, and whose it is."""
    predicted = [cost.seconds(model_counts(config)) / frame_seconds(config) for config in (dense, small)]
    return {"rtf": dict(zip(("dense", "compressed"), predicted, strict=True)), "device": cost.device}


@one_line_errors
def main(argv: list[str] | None = None, read: Reader | None = None) -> int:
    """Compress a stored acoustic model; a finished run of the same request is left alone.

    read: reads calibration features (`dirnet.calibrated` does); without it there is no option for them.
    """
    parser = Parser(prog="dirnet compress" if read else "python -m dirnet.compression.compressor", description=__doc__)
    parser.add_argument("--model", required=True, help="folder with the dense model.safetensors and model.json")
    parser.add_argument("--size", required=True, help="7.9x fewer or 1.3M parameters, 2MB as stored, or rtf=0.05")
    parser.add_argument("--cost_model", help="cost.json of `dirnet cost`, which a size in rtf needs")
    parser.add_argument("--device", help="processor of --cost_model (default: this one)")
    parser.add_argument("--threads", type=int, help="threads of --cost_model (default: 1)")
    parser.add_argument("--method", default="dirnet", help="a name of --config, or built in")
    parser.add_argument("--config", help=f"file of methods, as conf/compress.yaml; without it: {', '.join(METHODS)}")
    parser.add_argument("--out", required=True, help="folder that receives the model, compression.json, .md and .png")
    parser.add_argument("--block", type=int, help="gate rows kept or dropped together, instead of the method's")
    parser.add_argument("--preset", choices=["best", "paper"],
                        help="solver dirnet: instead of the method's, with the weighting, order of units, allocation "
                        "and matrices to learn D on that belong to it")  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, help="of the values of D and Z, instead of the method's")
    parser.add_argument("--seed", type=seed, default=0, help="of the solver's random start and the utterances drawn")
    parser.add_argument("--nj", type=int, default=1, help="groups worked on at the same time; the result is the same")
    parser.add_argument("--dry_run", type=boolean, default=False, help="true: print the plan, write nothing")
    if read:
        parser.epilog = "For any model of ESPnet's see `dirnet compress --espnet MODEL --help`."
        parser.add_argument("--calibration", help="feats.scp of training data, by which errors are weighted")
        parser.add_argument("--calibration_utts", type=int, default=200, help="how many of its utterances are drawn")
    arguments = parser.parse_args(argv)
    methods = load_methods(arguments.config) if arguments.config else METHODS
    method = _resolved(arguments.method, methods, arguments.block, arguments.preset, arguments.dtype)
    for name in ("device", "threads"):
        if getattr(arguments, name) is not None and not arguments.cost_model:
            raise UserError(f"--{name} {getattr(arguments, name)} goes with --cost_model; leave it out or give one")
    device, threads = arguments.device or cpu_name(), 1 if arguments.threads is None else arguments.threads
    cost = arguments.cost_model and load_cost_model(arguments.cost_model, device, threads)
    request = {
        "dense_sha256": storage.describe(arguments.model)["sha256"],
        "size": arguments.size,
        "method": arguments.method,
        "settings": dataclasses.asdict(method),
        "seed": arguments.seed,
    }
    calibration, data = arguments.calibration if read and method.uses_data else None, None
    if calibration:
        if arguments.calibration_utts < 1:
            raise UserError(f"--calibration_utts is {arguments.calibration_utts}, expected at least 1")
        data = list(read(calibration, arguments.calibration_utts, arguments.seed))
        request["calibration"] = [calibration, arguments.calibration_utts, _digest(data)]
    if cost:
        request["cost_model"] = hashlib.sha256(cost.to_json().encode()).hexdigest()
    out = Path(arguments.out)
    if not arguments.dry_run and _finished(out, request):
        print(f"{out}: holds this compressed model already; nothing to do")
        return 0
    if not arguments.dry_run:
        _refuse_other(out)
    model = storage.load(arguments.model)
    if model.config.compression:
        raise UserError(f"--model {arguments.model} is compressed already; give the dense model")
    if arguments.dry_run:
        size = parse_size(arguments.size)
        if method.solver == "small":
            print(describe_small(model, size))
            return 0
        with workers(arguments.nj) as mapped:
            guide = make_guide(model, method, data, arguments.seed)
            plan = make_plan(model, size, method, guide, mapped, running=cost)
        print(describe_plan(plan, size_figures(model)))
        return 0
    model, report = compress(
        model, arguments.size, method, seed=arguments.seed, data=data, nj=arguments.nj, cost_model=cost
    )
    report["method"] = arguments.method
    with atomic_write(out / "compression.json") as content, atomic_write(out / "compression.md") as table:
        content.write(json.dumps(report, indent=1, allow_nan=False) + "\n")
        table.write(markdown(report))
    if report["groups"]:  # a small dense model has none
        with atomic_write(out / "compression.png", "wb") as image:
            image.write(picture(model, report))
    extra = storage.describe(arguments.model).get("extra", {})
    storage.save(model, out, extra | {"compression": request})  # last: it marks the run as finished
    small, error = report["compressed"], report["relative_error"]
    print(
        f"{out}: {small['params']:,} parameters ({report['ratio']:.2f}x fewer), {small['bytes']:,} bytes, "
        + ("untrained" if error is None else f"relative error {error:.4f}")
    )
    if method.solver == "dirnet" and method.block == 1:
        print("note: single codes lose least accuracy, but run hardly faster than the dense model; --block 8 is fast")
    return 0


def _digest(batches: list[tuple[Tensor, Tensor]]) -> str:
    """A sha256 of features and lengths."""
    content = hashlib.sha256()
    for features, lengths in batches:
        content.update(features.numpy().tobytes() + lengths.numpy().tobytes())
    return content.hexdigest()


def _finished(out: Path, request: dict[str, Any]) -> bool:
    """Whether `out` holds a whole model that came of `request`; a damaged one is made again."""
    try:
        storage.load(out)
        return storage.describe(out).get("extra", {}).get("compression") == request
    except UserError:
        return False


def _refuse_other(out: Path) -> None:
    """A `UserError` where `out` holds a model, of any kind, that is not just compressed: hours of training."""
    description = read_json(out / storage.DESCRIPTION)  # None: there is none, or a damaged one
    if isinstance(description, dict) and "compression" not in description.get("extra", {}):
        raise UserError(f"--out {out} holds a trained model, which would be lost; give another folder")


def _resolved(
    method: str | Method,
    methods: dict[str, Method],
    block: int | None = None,
    preset: str | None = None,
    dtype: str | None = None,
) -> Method:
    if isinstance(method, str):
        if method not in methods:
            more = "; more are in conf/compress.yaml, for --config" if methods is METHODS else ""
            raise UserError(f"method {method!r} is unknown; choose one of {', '.join(methods)}{more}")
        method = methods[method]
    changes = {"block": block, "preset": preset, "dtype": dtype if dtype is None else check_dtype(dtype)}
    if preset is not None and method.solver != "dirnet":
        raise UserError(f"--preset {preset} is one of solver dirnet, not of {method.solver}; leave it out")
    if preset == "best" and method.preset == "paper":
        bound = method.shifts or method.input_group == "shared"  # which exclude both
        changes |= {"joint": True} if bound else {"weighting": "auto", "permute": True, "joint": True}
    if preset == "paper" and method.preset == "best":  # as published
        changes |= {"weighting": "none", "permute": False, "allocation": "equal", "joint": False}
    return dataclasses.replace(method, **{name: value for name, value in changes.items() if value is not None})


def _together(groups: Sequence[MatrixGroup], rows: list[dict[str, Any]]) -> float:
    """Relative error of all groups as one matrix."""
    energies = [float(group.matrix.square().sum()) for group in groups]
    errors = sum(energy * row["relative_error"] ** 2 for energy, row in zip(energies, rows, strict=True))
    return (errors / max(sum(energies), 1e-30)) ** 0.5


if __name__ == "__main__":
    main()
