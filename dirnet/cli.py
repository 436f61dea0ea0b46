"""The `dirnet` command: one word, then the options of the program behind it."""

from __future__ import annotations

import importlib
import sys

from dirnet.errors import UserError, did_you_mean, one_line_errors

COMMANDS = {
    "compress": ("dirnet.compress_model", "compress the recurrent layers of a model to a size"),
    "sweep": ("dirnet.sweep", "the paper's studies of its settings: Theta^0, gamma, widths per layer"),
    "paper": ("dirnet.paper", "the paper's tables and figure 3 beside what was measured here"),
    "export": ("dirnet.deploy.export", "write an ExecuTorch program, parity-checked"),
    "verify": ("dirnet.deploy.verify", "check that exported programs are whole and compute what they should"),
    "rtf": ("dirnet.deploy.rtf", "measure the real-time factor of exported programs"),
    "cost": ("dirnet.deploy.cost", "measure this host's kernels, for sizes such as rtf=0.05"),
    "decode": ("dirnet.recognise", "audio files, or a microphone, to words"),
    "espnet": ("dirnet.espnet.startup", "let every ESPnet program of this environment know DirNet: enable, disable"),
    "zoo": ("dirnet.espnet.zoo", "check a packed model, or upload it to the model zoo"),
    "report": ("dirnet.report.page", "results table and HTML page of an experiment folder"),
}


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: dirnet COMMAND [OPTIONS]", "", *lines, "", "dirnet COMMAND --help shows its options."])


def main() -> None:
    """Run the command named by the first argument with the others; imports only what that command needs."""
    sys.argv[0] = "dirnet"  # what errors begin with, however the program was started
    _run()


@one_line_errors
def _run() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(usage())
        return 0
    name = sys.argv[1]
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; {did_you_mean(name, COMMANDS)}")
    module = importlib.import_module(COMMANDS[name][0])
    sys.argv[0] = f"dirnet {name}"
    return module.main(sys.argv[2:])


if __name__ == "__main__":
    main()
