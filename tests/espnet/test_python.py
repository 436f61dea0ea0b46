"""`dirnet-python` with ESPnet's own programs and with processes that they spawn."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dirnet.espnet.python import PACKAGE_PARENT, STARTUP, environment


def dirnet_python(*arguments: object, path: str = "", **options) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, PACKAGE_PARENT]))}
    command = [sys.executable, "-m", "dirnet.espnet.python", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300, **options)


def test_environment_is_stable_and_keeps_what_was_there():
    once = environment({"PYTHONPATH": "/a:/b", "HOME": "/home"})
    assert once["PYTHONPATH"].split(os.pathsep) == [STARTUP, "/a", "/b", PACKAGE_PARENT] and once["HOME"] == "/home"
    assert environment(once) == once


def test_starting_the_interpreter_costs_nothing():
    shown = dirnet_python("-c", "import sys; print([m for m in ('torch', 'dirnet', 'espnet2') if m in sys.modules])")
    assert shown.stdout.strip() == "[]", shown.stderr


def test_status_arguments_and_standard_input_pass(tmp_path):
    assert dirnet_python("-c", "import sys; sys.exit(int(sys.argv[1]))", 7).returncode == 7
    assert dirnet_python("-", input="print(6 * 7)").stdout.strip() == "42"


@pytest.mark.slow
def test_spawned_workers_know_the_classes_and_a_hidden_sitecustomize_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['SITE_OF_THE_USER'] = 'ran'\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os\n"
        "def look(queue):\n"
        "    from espnet2.tasks.asr import ASRTask\n"
        "    args = ASRTask.get_parser().parse_args(['--encoder', 'dirnet_rnn', '--output_dir', 'x'])\n"
        "    queue.put((args.encoder, os.environ.get('SITE_OF_THE_USER')))\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.SimpleQueue()\n"
        "    process = context.Process(target=look, args=(queue,)); process.start(); process.join()\n"
        "    print(*queue.get())\n"
    )
    done = dirnet_python(program, path=str(tmp_path))
    assert done.stdout.split()[-2:] == ["dirnet_rnn", "ran"], done.stderr


@pytest.mark.slow
def test_espnets_own_training_program(trained, tmp_path):
    """The configuration that the recipe wrote trains under the unchanged `espnet2.bin.asr_train` too."""
    done = dirnet_python(
        "-m", "espnet2.bin.asr_train", "--config", trained.exp / "train.yaml", "--output_dir", tmp_path,
        "--max_epoch", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1epoch.pth").exists() and "per=" in done.stderr
