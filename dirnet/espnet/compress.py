"""`dirnet compress --espnet`: any ESPnet2 model with recurrent layers, smaller, for ESPnet's own programs.

SOURCE is an experiment folder, `config.yaml,model.pth`, a package (.zip) or a tag of the model zoo. What comes out is
an experiment folder again: fine-tune it with asr_train, decode it with asr_inference, pack it with espnet2.bin.pack.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dirnet.compression.budget import Size, parse_size
from dirnet.compression.compressor import compress
from dirnet.compression.finetune import refuse_replaced_start
from dirnet.compression.groups import dense_rnns, matrix_groups
from dirnet.compression.inputs import digest, run
from dirnet.compression.methods import METHODS, PRESETS, Method, check_trainable, find_method, load_methods
from dirnet.compression.parallel import workers
from dirnet.compression.plan import describe_plan
from dirnet.compression.preparation import prepare
from dirnet.compression.reconstruction import reconstruct_and_tell
from dirnet.compression.report import size_figures
from dirnet.config import boolean
from dirnet.errors import UserError, one_line_errors
from dirnet.espnet import folder
from dirnet.espnet.batches import Utterances
from dirnet.espnet.source import Source, find, remarks_dropped, replaced_strings
from dirnet.files import check_place, read_json
from dirnet.nn import storage
from dirnet.nn.quantised import DTYPES
from dirnet.options import Parser, seed

TOGETHER = 20  # utterances a step of reconstruction


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Compress; a finished run of the same request is left alone."""
    parser = Parser(prog="dirnet compress", description=__doc__)
    parser.add_argument("--espnet", required=True, metavar="SOURCE", help="the model, see above")
    parser.add_argument("--size", required=True, help="4x fewer or 1.3M parameters, or 2MB as stored")
    parser.add_argument("--of", choices=["model", "recurrent"], default="model",
                        help="what --size counts: the whole model, or the weights of its recurrent layers")  # fmt: skip
    parser.add_argument("--data", "--calibration", type=Path,
                        help="Kaldi data dir or dump set (of an LM also a text) to calibrate on")  # fmt: skip
    parser.add_argument("--data_utts", "--calibration_utts", type=int, default=100,
                        help="how many of its utterances, drawn")  # fmt: skip
    parser.add_argument("--reconstruct", type=int, default=0, help="utterances of --data from which every layer then "
                        "learns to give what the dense one gives, without labels; 0: none")  # fmt: skip
    parser.add_argument("--method", default="dirnet", help="a method of --config")
    parser.add_argument("--config", help=f"methods, as conf/compress.yaml; default: {', '.join(METHODS)}")
    parser.add_argument("--block", type=int, help="gate rows kept or dropped together, instead of the method's")
    parser.add_argument("--preset", choices=PRESETS,
                        help="solver dirnet: instead of the method's, with the settings that belong to it")  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, help="of the values of D and Z, instead of the method's")
    parser.add_argument("--out", required=True, help="the experiment folder to write")
    parser.add_argument("--seed", type=seed, default=0, help="of the solver's random start and the utterances drawn")
    parser.add_argument("--nj", type=int, default=1, help="groups worked on at the same time; the result is the same")
    parser.add_argument("--dry_run", "--dry-run", type=boolean, nargs="?", const=True, default=False,
                        help="print the plan, write nothing")  # fmt: skip
    parser.add_argument("--next_steps", type=boolean, default=True, help="false: not the commands that follow")
    arguments = parser.parse_args(argv)
    method = chosen_method(arguments)
    size, out = parse_size(arguments.size), folder.relative(Path(arguments.out))
    if arguments.data_utts < 1:
        raise UserError(f"--data_utts is {arguments.data_utts}, expected at least 1")
    check_place(arguments.out, folder=True)
    found = find(arguments.espnet)
    _refuse_neutral(found)
    data, lessons = calibration(found, arguments, method), _lessons(found, arguments, method)
    if not arguments.dry_run:
        request = _request(found, arguments, method, data, lessons)
        if folder.holds(out, request):
            print(f"{out}: holds this compressed model already; nothing to do")
            return 0
        folder.refuse_trained(out)
        refuse_replaced_start(out, (read_json(out / folder.REPORT) or {}).get("request"), request)
    model = silent(found.build())
    wanted = limit(model, size, arguments.of)
    if read := data or lessons:
        check_reads(model, read[0], arguments.data)
    if arguments.dry_run:
        with workers(arguments.nj) as mapped, remarks_dropped():
            plan = prepare(
                model, parse_size(wanted), method, data, arguments.seed, states_inside=True, mapped=mapped
            ).plan
        print(describe_plan(plan))
        return 0
    dense = copy.deepcopy(model) if lessons else None
    with remarks_dropped():
        model, report = compress(
            model, wanted, method, seed=arguments.seed, data=data, nj=arguments.nj, states_inside=True
        )  # ESPnet's recurrent layers hand states to themselves only
        if lessons:
            learned = reconstruct_and_tell(model, dense, lessons, len(lessons), report, TOGETHER)
    what = "" if arguments.of == "model" else " of the recurrent layers"
    report |= {"method": arguments.method, "size": arguments.size + what, "request": request}
    folder.write(found, model, report, out)
    print(summary(found, report, out))
    if lessons:
        print(learned)
    if arguments.next_steps:
        print(folder.next_steps(found, out))
    return 0


def _request(
    found: Source,
    arguments: argparse.Namespace,
    method: Method,
    data: list[dict[str, Any]] | None,
    lessons: Utterances | None,
) -> dict[str, Any]:
    """All that the result depends on, and so what tells a finished run from another."""
    request = {
        "model_sha256": hashlib.sha256(found.model.read_bytes()).hexdigest(),
        "config_sha256": hashlib.sha256(found.config_file.read_bytes()).hexdigest(),
        "size": [arguments.size, arguments.of],
        "settings": dataclasses.asdict(method),
        "data": data and [str(arguments.data), arguments.data_utts, digest(data)],
        "seed": arguments.seed,
    }
    if lessons:
        request["reconstruct"] = [str(arguments.data), arguments.reconstruct, digest(lessons)]
    return request


def _refuse_neutral(found: Source) -> None:
    """An acoustic model of our recipe is compressed as such: its stages fine-tune, decode and pack what comes out."""
    beside = found.model.parent
    if (read_json(beside / storage.DESCRIPTION) or {}).get("format") == storage.FORMAT:
        raise UserError(f"--espnet {beside} is an acoustic model of this recipe; take --model {beside} instead")


def chosen_method(arguments: argparse.Namespace) -> Method:
    """The method of the command line; one that ESPnet's training programs cannot carry out is a `UserError`."""
    methods = load_methods(arguments.config) if arguments.config else METHODS
    method = find_method(arguments.method, methods).changed(arguments.block, arguments.preset, arguments.dtype)
    check_trainable(arguments.method, method)
    return method


def limit(model: nn.Module, size: Size, of: str) -> str:
    """The `size` of the whole model; `of` recurrent counts the weights in its recurrent layers only."""
    if size.kind == "rtf":
        raise UserError(f"size {size.text!r} needs an acoustic model of ours; give a ratio, parameters or bytes here")
    if of == "model":
        return size.text
    weights = sum(group.matrix.numel() for rnn in dense_rnns(model).values() for group in matrix_groups(rnn))
    if size.kind == "bytes":
        return f"{size_figures(model)['bytes'] - 4 * weights + int(size.value)}B"
    rest = size_figures(model)["params"] - weights
    return str(rest + size.limit(weights))


def calibration(found: Source, arguments: argparse.Namespace, method: Method) -> list[dict[str, Any]] | None:
    """Inputs of the model; None where the solver has the weights only: without `--data`, or if `method` reads none."""
    if not method.uses_data:
        if arguments.data is not None and not arguments.reconstruct:
            print(f"--data {arguments.data} is not read by method {arguments.method}", file=sys.stderr)
        return None
    if arguments.data is None:
        print("no --data: only the weights are approximated, not what the model does with speech", file=sys.stderr)
        return None
    return list(_drawn(found, arguments, arguments.data_utts))


def _lessons(found: Source, arguments: argparse.Namespace, method: Method) -> Utterances | None:
    """What `--reconstruct` draws, in random order; none without it, or where `method` leaves nothing to learn."""
    count = arguments.reconstruct
    if not count:
        return None
    if count < 0 or arguments.data is None:
        raise UserError(f"--reconstruct is {count}, expected {'0 or more' if count < 0 else '--data to draw from'}")
    if not method.can_reconstruct:
        print(f"--reconstruct {count} is not for method {arguments.method}", file=sys.stderr)
        return None
    return _drawn(found, arguments, count).shuffled(arguments.seed)


def _drawn(found: Source, arguments: argparse.Namespace, utterances: int) -> Utterances:
    config = replaced_strings(dict(found.config), {name: str(path) for name, path in found.files.items()})
    return Utterances(found.task, config, arguments.data, utterances, arguments.seed)


def check_reads(model: nn.Module, inputs: dict[str, Any], where: Path) -> None:
    """A `UserError` where the model, or the library that its loss comes from, refuses the data of `where`."""
    try:
        with torch.no_grad(), remarks_dropped():
            run(model, inputs)
    except UserError as error:
        raise UserError(f"--data {where}: {error}, or no --data") from None


def silent(model: nn.Module) -> nn.Module:
    """`model` without the decoding that ESPnet's models do to report error rates on held-out data."""
    for name in ("error_calculator", "error_calculator_trans"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
    if getattr(getattr(model, "ctc", None), "error_calculator", None) is not None:
        model.ctc.error_calculator = None
    return model


def summary(found: Source, report: dict[str, Any], out: Path) -> str:
    """What was done, in three lines."""
    dense, small = report["dense"], report["compressed"]
    lines = [
        f"{out}: {small['params']:,} of {dense['params']:,} parameters ({report['ratio']:.2f}x fewer), "
        f"{small['bytes']:,} bytes, relative error {report['relative_error']:.4f}"
    ]
    layers = list(dict.fromkeys(row["name"].rpartition(".")[0] for row in report["groups"]))
    lines.append(f"  {found.task} model; compressed: {', '.join(layers)}")
    lines.append(f"  {report['uncompressed']['params']:,} parameters stay as they are; details: {out}/compression.md")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
