"""A loopback stand-in for the daemon on an Android phone, for the real `adb` client: CNXN, OPEN, shell_v2 and sync.

Commands run in the host's shell with a folder of its own for /data/local/tmp and /sys, and `getprop` and `taskset`
answered. It is wrong about Android in many ways: it tests what we say to adb and how we take its answers.
"""

from __future__ import annotations

import os
import queue
import shlex
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

VERSION, MAX_DATA = 0x01000001, 256 * 1024
PROPERTIES = {
    "ro.product.cpu.abilist": "arm64-v8a,x86_64",
    "ro.product.manufacturer": "Loopback",
    "ro.product.model": "Stand-in",
    "ro.soc.manufacturer": "Debian",
    "ro.soc.model": "QEMU",
    "ro.board.platform": "none",
    "ro.build.version.release": "14",
}
CLOCKS = {0: 1800000, 1: 1800000, 2: 2800000, 3: 2800000}  # kHz of its cores
_HEADER = struct.Struct("<4s5I")
_PUBLIC_KEY = 3
_STDOUT, _STDERR, _EXIT = 1, 2, 3


class Phone:
    """A phone listening on 127.0.0.1:`port`. `root`: its files. `trouble`: what goes wrong, see the tests.

    trouble: `unauthorized`, `offline`; `no space`, `damage` and `drop push` meet a pushed file whose name holds
    `victim`; `kill`, `hang` and `drop` a command that holds it.
    """

    def __init__(self, root: Path):
        self.root, self.trouble, self.victim = root, "", ""
        self.commands: list[str] = []
        for folder in ("data/local/tmp", "bin", "sys/devices/system/cpu", "sys/class/thermal/thermal_zone0"):
            (root / folder).mkdir(parents=True)
        cpu = root / "sys/devices/system/cpu"
        (cpu / "online").write_text(f"0-{max(CLOCKS)}\n")
        for core, clock in CLOCKS.items():
            (cpu / f"cpu{core}/cpufreq").mkdir(parents=True)
            (cpu / f"cpu{core}/cpufreq/cpuinfo_max_freq").write_text(f"{clock}\n")
            (cpu / f"cpu{core}/cpufreq/scaling_cur_freq").write_text(f"{clock}\n")
        (root / "sys/class/thermal/thermal_zone0/type").write_text("cpu-1-0\n")
        (root / "sys/class/thermal/thermal_zone0/temp").write_text("41500\n")
        answers = "".join(f"{name}) echo {shlex.quote(value)};;\n" for name, value in PROPERTIES.items())
        self.tool("getprop", f'case "$1" in\n{answers}esac')
        self.tool("taskset", 'shift; exec "$@"')  # the host has other cores
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def files(self) -> list[Path]:
        """What lies in its /data/local/tmp."""
        return sorted((self.root / "data/local/tmp").rglob("*"))

    def close(self) -> None:
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Every connection ends, as when the cable is pulled."""
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def local(self, text: str) -> str:
        """`text` with the phone's folders where they really are."""
        return text.replace("/data/local/tmp", f"{self.root}/data/local/tmp").replace("/sys/", f"{self.root}/sys/")

    def tool(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def _listen(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=_Connection(self, connection).serve, daemon=True).start()


class _Connection:
    def __init__(self, phone: Phone, connection: socket.socket):
        self.phone, self.socket = phone, connection
        self.streams: dict[int, _Stream] = {}
        self.lock = threading.Lock()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        with self.lock:
            self.socket.sendall(_HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, magic) + data)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := self.socket.recv(size - len(data))):
                raise OSError("closed")
            data += more
        return data

    def serve(self) -> None:
        try:
            while True:
                command, first, second, size, _, _ = _HEADER.unpack(self._read(_HEADER.size))
                self._handle(command, first, second, self._read(size))
        except OSError:
            self.socket.close()
            for stream in self.streams.values():
                stream.queue.put(None)

    def _handle(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN" and self.phone.trouble == "offline":
            return
        if command in (b"CNXN", b"AUTH") and self.phone.trouble == "unauthorized":
            if first != _PUBLIC_KEY:  # to that the user answers, or does not
                self.send(b"AUTH", 1, 0, bytes(20))
        elif command == b"CNXN":
            model = PROPERTIES["ro.product.model"].replace("-", "_")
            self.send(b"CNXN", VERSION, MAX_DATA, f"device::ro.product.model={model};features=shell_v2,cmd".encode())
        elif command == b"OPEN":
            stream = _Stream(self, len(self.streams) + 1, first)
            self.streams[stream.id] = stream
            threading.Thread(target=stream.serve, args=(data.rstrip(b"\0").decode(),), daemon=True).start()
        elif command == b"WRTE":
            self.send(b"OKAY", second, first)
            self.streams[second].queue.put(data)
        elif command == b"OKAY":
            self.streams[second].ready.set()
        elif command == b"CLSE" and second in self.streams:
            self.streams[second].queue.put(None)


class _Stream:
    def __init__(self, connection: _Connection, here: int, there: int):
        self.connection, self.phone, self.id, self.peer = connection, connection.phone, here, there
        self.queue: queue.Queue[bytes | None] = queue.Queue()
        self.ready = threading.Event()
        self.rest = b""

    def serve(self, service: str) -> None:
        try:
            self.connection.send(b"OKAY", self.id, self.peer)
            if service.startswith("shell"):
                self._shell(service.partition(":")[2])
            elif service == "sync:":
                self._sync()
            self.connection.send(b"CLSE", self.id, self.peer)
        except OSError:
            pass

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            self.ready.clear()
            self.connection.send(b"WRTE", self.id, self.peer, data[start : start + MAX_DATA])
            self.ready.wait(10)

    def _read(self, size: int) -> bytes:
        while len(self.rest) < size:
            if (data := self.queue.get()) is None:
                raise OSError("closed")
            self.rest += data
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def _shell(self, command: str) -> None:
        phone = self.phone
        phone.commands.append(command)
        if phone.trouble in ("kill", "hang", "drop") and phone.victim in command:
            if phone.trouble == "drop":
                phone.drop()
                raise OSError("dropped")
            if phone.trouble == "hang":
                time.sleep(30)
                return
            command = command.replace("./dirnet_runner", "/bin/sh -c 'kill -9 $$' #", 1)
        environment = os.environ | {"PATH": f"{phone.root}/bin:{os.environ['PATH']}"}
        process = subprocess.Popen(
            ["/bin/sh", "-c", phone.local(command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
        output, errors = process.communicate()
        status = process.returncode if process.returncode >= 0 else 128 - process.returncode
        for kind, data in ((_STDOUT, output), (_STDERR, errors), (_EXIT, bytes([status & 255]))):
            if data:
                self._write(struct.pack("<BI", kind, len(data)) + data)

    def _sync(self) -> None:
        while True:
            request, size = struct.unpack("<4sI", self._read(8))
            if request == b"QUIT":
                return
            name = self._read(size).decode()
            {b"STAT": self._stat, b"SEND": self._receive, b"RECV": self._give}[request](name)

    def _stat(self, name: str) -> None:
        try:
            found = os.stat(self.phone.local(name))
            self._write(struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size, int(found.st_mtime)))
        except OSError:
            self._write(struct.pack("<4s3I", b"STAT", 0, 0, 0))

    def _receive(self, name_and_mode: str) -> None:
        name, _, mode = name_and_mode.rpartition(",")
        trouble = self.phone.trouble if self.phone.victim in name else ""
        content = b""
        while True:
            kind, size = struct.unpack("<4sI", self._read(8))
            if kind == b"DONE":
                break
            content += self._read(size)
            if trouble == "drop push":
                self.phone.drop()
                raise OSError("dropped")
        if trouble == "no space":
            return self._fail("couldn't write file: No space left on device")
        if trouble == "damage":
            content = content[:-1] + bytes([content[-1] ^ 1])
        try:
            path = Path(self.phone.local(name))
            path.write_bytes(content)
            path.chmod(int(mode) & 0o777)
        except OSError as error:
            return self._fail(f"couldn't create file: {error.strerror}")
        self._write(struct.pack("<4sI", b"OKAY", 0))

    def _give(self, name: str) -> None:
        try:
            content = Path(self.phone.local(name)).read_bytes()
        except OSError as error:
            return self._fail(f"open failed: {error.strerror}")
        for start in range(0, len(content), 65536):
            piece = content[start : start + 65536]
            self._write(struct.pack("<4sI", b"DATA", len(piece)) + piece)
        self._write(struct.pack("<4sI", b"DONE", 0))

    def _fail(self, message: str) -> None:
        self._write(struct.pack("<4sI", b"FAIL", len(message)) + message.encode())
