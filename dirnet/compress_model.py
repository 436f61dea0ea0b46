"""Compress a stored acoustic model: `dirnet compress`."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from dirnet.asr.batches import FeatureBatches
from dirnet.compression.budget import Size, parse_size
from dirnet.compression.compressor import compress
from dirnet.compression.finetune import refuse_replaced_start
from dirnet.compression.inputs import digest
from dirnet.compression.methods import METHODS, PRESETS, Method, find_method, load_methods
from dirnet.compression.parallel import workers
from dirnet.compression.picture import picture
from dirnet.compression.plan import describe_plan
from dirnet.compression.preparation import prepare
from dirnet.compression.reconstruction import reconstruct_and_tell
from dirnet.compression.report import markdown
from dirnet.compression.small import describe_small
from dirnet.config import boolean
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write, check_place, read_json
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.quantised import DTYPES
from dirnet.nn.running import CostModel, load_cost_model
from dirnet.options import Parser, seed
from dirnet.provenance import cpu_name


def main(argv: list[str] | None = None) -> int | None:
    """With `--espnet SOURCE` any model of ESPnet's: `dirnet.espnet.compress`; else a stored acoustic model."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] == "--espnet" for word in words):
        return importlib.import_module("dirnet.espnet.compress").main(argv)
    return _main(argv)


@one_line_errors
def _main(argv: list[str] | None) -> int:
    """A finished run of the same request is left alone."""
    arguments = _parser().parse_args(argv)
    methods = load_methods(arguments.config) if arguments.config else METHODS
    method = find_method(arguments.method, methods).changed(arguments.block, arguments.preset, arguments.dtype)
    cost, size, out = _cost_model(arguments), parse_size(arguments.size), Path(arguments.out)
    check_place(arguments.out, folder=True)
    request = {
        "dense_sha256": storage.describe(arguments.model)["sha256"],
        "size": size.text,
        "method": arguments.method,
        "settings": dataclasses.asdict(method),
        "seed": arguments.seed,
    }
    if data := _calibration(arguments, method):
        request["calibration"] = [arguments.calibration, arguments.calibration_utts, digest(data)]
    if lessons := _lessons(arguments, method):
        request["reconstruct"] = [arguments.calibration, arguments.reconstruct, digest(lessons)]
    if cost:
        request["cost_model"] = hashlib.sha256(cost.to_json().encode()).hexdigest()
    if not arguments.dry_run:
        if _finished(out, request):
            print(f"{out}: holds this compressed model already; nothing to do")
            return 0
        _refuse_other(out, request)
    model = storage.load(arguments.model)
    if model.config.compression:
        raise UserError(f"--model {arguments.model} is compressed already; give the dense model")
    if arguments.dry_run:
        print(_planned(model, size, method, arguments, data, cost))
        return 0
    dense = copy.deepcopy(model) if lessons else None
    model, report = compress(
        model, arguments.size, method, seed=arguments.seed, data=data, nj=arguments.nj, cost_model=cost
    )
    report["method"] = arguments.method
    learned = reconstruct_and_tell(model, dense, lessons, lessons.utterances, report) if lessons else None
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
    if learned:
        print(learned)
    sparse = any(row["density"] < 1 for row in report["groups"])
    if method.solver == "dirnet" and method.block == 1 and size.kind != "rtf" and sparse:  # rtf takes dense codes
        print("note: single codes lose least accuracy, but run two to five times slower than those of --block 8")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="dirnet compress", description=__doc__)
    parser.epilog = "For any model of ESPnet's see `dirnet compress --espnet MODEL --help`."
    parser.add_argument("--model", required=True, help="folder with the dense model.safetensors and model.json")
    parser.add_argument("--size", required=True, help="7.9x fewer or 1.3M parameters, 2MB as stored, or rtf=0.05")
    parser.add_argument("--cost_model", help="cost.json of `dirnet cost`, which a size in rtf needs")
    parser.add_argument("--device", help="processor of --cost_model (default: this one)")
    parser.add_argument("--threads", type=int, help="threads of --cost_model (default: 1)")
    parser.add_argument("--method", default="dirnet", help="a name of --config, or built in")
    parser.add_argument("--config", help=f"file of methods, as conf/compress.yaml; without it: {', '.join(METHODS)}")
    parser.add_argument("--out", required=True, help="folder that receives the model, compression.json, .md and .png")
    parser.add_argument("--block", type=int, help="gate rows kept or dropped together, instead of the method's")
    parser.add_argument("--preset", choices=PRESETS,
                        help="solver dirnet: instead of the method's, with the weighting, order of units, allocation "
                        "and matrices to learn D on that belong to it")  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, help="of the values of D and Z, instead of the method's")
    parser.add_argument("--seed", type=seed, default=0, help="of the solver's random start and the utterances drawn")
    parser.add_argument("--nj", type=int, default=1, help="groups worked on at the same time; the result is the same")
    parser.add_argument("--dry_run", "--dry-run", type=boolean, nargs="?", const=True, default=False,
                        help="print the plan, write nothing")  # fmt: skip
    parser.add_argument("--calibration", help="feats.scp of training data, by which errors are weighted")
    parser.add_argument("--calibration_utts", type=int, default=200, help="how many of its utterances are drawn")
    parser.add_argument("--reconstruct", type=int, default=0, help="utterances of --calibration from which every layer "
                        "then learns to give what the dense one gives, without labels; 0: none")  # fmt: skip
    return parser


def _cost_model(arguments: argparse.Namespace) -> CostModel | None:
    if arguments.cost_model:
        threads = 1 if arguments.threads is None else arguments.threads
        return load_cost_model(arguments.cost_model, arguments.device or cpu_name(), threads)
    for name in ("device", "threads"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} {getattr(arguments, name)} goes with --cost_model; leave it out or give one")
    return None


def _calibration(arguments: argparse.Namespace, method: Method) -> list[tuple[Tensor, Tensor]] | None:
    """What --calibration draws; None without it, or if `method` reads none."""
    if not arguments.calibration:
        return None
    if not method.uses_data and not arguments.reconstruct:
        print(f"--calibration {arguments.calibration} is not read by method {arguments.method}", file=sys.stderr)
    if not method.uses_data:
        return None
    if arguments.calibration_utts < 1:
        raise UserError(f"--calibration_utts is {arguments.calibration_utts}, expected at least 1")
    return list(FeatureBatches(arguments.calibration, arguments.calibration_utts, arguments.seed))


def _lessons(arguments: argparse.Namespace, method: Method) -> FeatureBatches | None:
    """The utterances of --reconstruct, in batches in random order; None without it, or if they are lost on `method`."""
    count = arguments.reconstruct
    if not count:
        return None
    if count < 0 or not arguments.calibration:
        expected = "0 or more" if count < 0 else "--calibration, whose utterances it draws"
        raise UserError(f"--reconstruct is {count}, expected {expected}")
    if not method.can_reconstruct:
        print(f"--reconstruct {count} is not for method {arguments.method}", file=sys.stderr)
        return None
    if arguments.dry_run:
        return None
    return FeatureBatches(arguments.calibration, count, arguments.seed).shuffled(arguments.seed)


def _planned(
    model: AcousticModel, size: Size, method: Method, arguments: argparse.Namespace, data: list | None,
    cost: CostModel | None,
) -> str:  # fmt: skip
    """What the budget would buy."""
    if method.solver == "small":
        return describe_small(model, size)
    with workers(arguments.nj) as mapped:
        plan = prepare(model, size, method, data, arguments.seed, mapped=mapped, cost_model=cost).plan
    return describe_plan(plan)


def _finished(out: Path, request: dict[str, Any]) -> bool:
    """Whether `out` holds a whole model that came of `request`; a damaged one is made again."""
    try:
        storage.load(out)
        return storage.describe(out).get("extra", {}).get("compression") == request
    except UserError:
        return False


def _refuse_other(out: Path, request: dict[str, Any]) -> None:
    """A `UserError` where `out` holds a model, of any kind, that is not just compressed: hours of training.

    So is one that was compressed by another request and trained since, in the folder above.
    """
    description = read_json(out / storage.DESCRIPTION)  # None: there is none, or a damaged one
    if not isinstance(description, dict) or not isinstance(extra := description.get("extra", {}), dict):
        return
    if "compression" not in extra:
        raise UserError(f"--out {out} holds a trained model, which would be lost; give another folder")
    refuse_replaced_start(out, extra["compression"], request)


if __name__ == "__main__":
    main()
