"""Look at a recipe's methods and sizes before the hours of training that come first."""

from __future__ import annotations

from dirnet.compression.budget import parse_size
from dirnet.compression.methods import check_trainable, load_methods
from dirnet.config import boolean, read_yaml
from dirnet.errors import UserError, did_you_mean, one_line_errors
from dirnet.nn.running import load_cost_model
from dirnet.options import Parser
from dirnet.provenance import cpu_name


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Refuse no method at all, one that the configuration lacks, and a size that it cannot have.

    Prints the methods that keep every value, which the LibriSpeech recipe makes once, whatever the sizes.
    """
    parser = Parser(prog="python -m dirnet.compression.request", description=__doc__)
    parser.add_argument("--config", required=True, help="methods, as conf/compress.yaml")
    parser.add_argument("--methods", required=True, help="names, separated by blanks")
    parser.add_argument("--sizes", required=True, help="7.9x, 1.3M, 2MB or rtf=0.001, separated by blanks")
    parser.add_argument("--cost_model", help="cost.json of `dirnet cost`, for sizes in rtf")
    parser.add_argument("--check", type=boolean, default=True, help="false: refuse nothing, only print")
    parser.add_argument("--espnet", type=boolean, default=False, help="true: as egs/ptb_dirnet, which trains `small` "
                        "itself and gives the others to `dirnet compress --espnet`")  # fmt: skip
    parser.add_argument("--read", nargs="*", default=[], help="other configurations, read whatever --check says")
    arguments = parser.parse_args(argv)
    for path in arguments.read:
        read_yaml(path)
    known = load_methods(arguments.config)
    if not arguments.espnet:
        print(*(name for name in arguments.methods.split() if name in known and known[name].solver == "dense"))
    if not arguments.check:
        return 0
    if not arguments.methods.split():
        raise UserError(
            f"--methods is empty, so there is nothing to compress; {arguments.config} has {', '.join(known)};"
            " for the dense model alone leave the stage of compression out"
        )
    for name in arguments.methods.split():
        if name not in known:
            raise UserError(f"--methods: method {name!r} is not in {arguments.config}; {did_you_mean(name, known)}")
        if arguments.espnet and name == "dense":
            raise UserError("method dense is in the table as dense_1x whatever --methods says; leave it out")
        if arguments.espnet and name == "small" and known[name].solver != "small":
            raise UserError(f"method small has the solver {known[name].solver}, but is trained as a smaller dense "
                            f"model; give it another name in {arguments.config}")  # fmt: skip
        if arguments.espnet and name != "small":
            check_trainable(name, known[name])
    if not arguments.sizes.split():
        raise UserError("no size is given; expected a ratio (7.9x), parameters (1.3M) or bytes (2MB)")
    if arguments.cost_model:
        load_cost_model(arguments.cost_model, cpu_name(), 1)
    for size in map(parse_size, arguments.sizes.split()):
        if size.kind == "rtf" and arguments.espnet:
            raise UserError(f"size {size.text} needs an acoustic model of ours; give a ratio, parameters or bytes")
        if size.kind == "rtf" and not arguments.cost_model:
            raise UserError(f"size {size.text} needs --cost_model; `dirnet cost --out cost.json` measures this host")
        for name in arguments.methods.split():
            if known[name].solver == "dense" and not arguments.espnet:
                continue  # the LibriSpeech recipe takes it at 1x, whatever the sizes
            known[name].check_size(size)
            if known[name].solver == "dense" and size.kind == "ratio" and size.value > 1:
                raise UserError(f"method {name} keeps every value, size {size.text} is out of reach; run it with 1x")
    return 0


if __name__ == "__main__":
    main()
