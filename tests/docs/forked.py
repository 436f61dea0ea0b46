"""Run the shell commands of a page, `dirnet` and `dirnet-python` being forks of one process: ESPnet is imported once.

Two small programs of these names, first on the PATH, send their arguments, environment, folder and standard streams
here; a child made by fork becomes that program. That an interpreter really knows DirNet is tests/espnet's to show.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import socket
import subprocess
import sys
import traceback
from pathlib import Path

CLIENT = """#!{python} -S
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as place:
    place.connect({address!r})
    socket.send_fds(place, [b"x"], [0, 1, 2])
    place.sendall(json.dumps([[os.path.basename(sys.argv[0]), *sys.argv[1:]], os.getcwd(), dict(os.environ)]).encode())
    place.shutdown(socket.SHUT_WR)
    sys.exit((place.recv(1) or b"\\1")[0])
"""


def run_shell(script: str, folder: Path) -> subprocess.CompletedProcess:
    """Run `script` by bash in `folder`, stopping at the first error; both outputs together in `stdout`.

    By a process of its own: torch's gradients do not work in forks of one that has computed any.
    """
    command = [sys.executable, __file__, str(folder)]
    return subprocess.run(command, input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def serve(script: str, folder: Path, limit: float = 120) -> tuple[int, str]:
    """Run `script` as `run_shell` tells, forks of this process being the two programs; its status and output."""
    import dirnet.espnet.task  # noqa: F401 - what the children then need not import

    bin_folder, address = folder / ".bin", str(folder / ".place")
    bin_folder.mkdir(exist_ok=True)
    for name in ("dirnet", "dirnet-python"):
        program = bin_folder / name
        program.write_text(CLIENT.format(python=sys.executable, address=address))
        program.chmod(0o755)
    Path(address).unlink(missing_ok=True)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    children: list[int] = []
    with socket.socket(socket.AF_UNIX) as place, open(folder / ".output", "w+", encoding="utf-8") as output:
        place.bind(address)
        place.listen()
        place.settimeout(0.05)
        bash = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, stdout=output, stderr=output
        )
        try:
            for _ in range(int(limit / 0.05)):
                try:
                    children.append(answer(place.accept()[0]))
                except TimeoutError:
                    if bash.poll() is not None:
                        break
        finally:
            bash.kill()
            bash.wait()
            for child in children:
                os.waitpid(child, 0)
        output.seek(0)
        return bash.returncode, output.read()


def answer(connection: socket.socket) -> int:
    """Fork a child that becomes the program asked for; its process number."""
    connection.setblocking(True)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    child = os.fork()
    if child:
        connection.close()
        for stream in streams:
            os.close(stream)
        return child
    status = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))
        arguments, folder, environment = json.loads(request)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        logging.getLogger().handlers.clear()
        become(*arguments)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([status & 255]))
        os._exit(0)


def become(name: str, *arguments: str) -> None:
    """`dirnet ...`, `dirnet-python -m MODULE ...` or `dirnet-python FILE ...`, in this process."""
    if name == "dirnet":
        from dirnet.cli import main

        sys.argv = [name, *arguments]
        main()
    elif arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    ended, said = serve(sys.stdin.read(), Path(sys.argv[1]))
    print(said, end="")
    sys.exit(ended)
