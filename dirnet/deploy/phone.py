"""An Android phone as the place where the C++ runner times programs, over adb.

The runner, the programs and the features go into a folder of their own under /data/local/tmp, are compared by sha256
there, and are removed at the end. Nothing else on the phone is changed: its governor, its screen and what else it does
stay as they are, so the clock and the temperature before and after are part of the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shlex
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dirnet.deploy import adb, runner
from dirnet.deploy.program import Program
from dirnet.errors import UserError

FOLDER = "/data/local/tmp"
CLUSTERS = ("big", "little", "all")
_MACHINES = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86", 243: "riscv64"}  # e_machine of an ELF file
_PROPERTIES = {
    "abis": "ro.product.cpu.abilist",
    "maker": "ro.product.manufacturer",
    "model": "ro.product.model",
    "soc_maker": "ro.soc.manufacturer",  # from Android 12 on
    "soc": "ro.soc.model",
    "platform": "ro.board.platform",
    "android": "ro.build.version.release",
}
_RUNNER = "dirnet_runner"
_KILLED = 128 + 9
_NOT_RUN = (126, 127)


class Phone:
    """A phone, as a `runner.Target`; a context manager that fills its folder and empties it.

    program: the `dirnet_runner` built for it. serial: as adb lists it, "" for the only one. cluster: one of CLUSTERS
    (big: the fastest cores) or core numbers, "4-7" or "0,2". threads: at most as many as those cores.
    """

    local = False

    def __init__(self, program: Path, serial: str = "", cluster: str = "big", threads: int = 1):
        self.program, self.serial, self.cluster, self.threads = program, serial, cluster, threads
        self.abi = elf_machine(program)

    def __enter__(self) -> Phone:
        self.device = adb.find_device(self.serial)
        self._properties = self._read_properties()
        if self.abi not in (abis := self._properties["abis"].split(",")):
            raise UserError(f"--runner {self.program} is built for {self.abi}, the phone runs {' or '.join(abis)}; "
                            "build it with the NDK's toolchain file and that ANDROID_ABI")  # fmt: skip
        self.cores = choose_cores(self._read_cores(), self.cluster, self.threads)
        self.name = f"{self._properties['maker']} {self._properties['model']}".strip() + " over adb"
        self.folder = f"{FOLDER}/dirnet-{secrets.token_hex(4)}"
        self._there: set[str] = set()
        try:
            self._do(f"mkdir {self.folder}")
            self._do(f"chmod 755 {self.folder}/{self._put(self.program.read_bytes(), _RUNNER)}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the folder, if the phone still answers."""
        with contextlib.suppress(UserError):
            adb.shell(self.device, f"rm -rf {self.folder}")

    def machine(self) -> dict[str, Any]:
        told = self._properties
        soc = f"{told['soc_maker']} {told['soc']}".strip() or told["platform"] or "unknown SoC"
        return {
            "cpu": soc,
            "phone": f"{told['maker']} {told['model']}".strip(),
            "system": f"Android {told['android']}, {self.abi}",
            "cluster": self.cluster,
            "cluster_cores": self.cores,
        }

    def run(self, program: Program, features: Tensor, extra: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
        with tempfile.TemporaryDirectory() as here:
            here = Path(here)
            runner.stage(here, program, features)
            files = {name: self._put((here / name).read_bytes(), name) for name in (runner.MODEL, runner.FEATURES)}
            mask = sum(1 << core for core in self.cores)
            words = runner.options(files | {name: name for name in (runner.LOGITS, runner.RESULT)}) + [*extra]
            command = f"cd {self.folder} && taskset {mask:x} ./{_RUNNER} {shlex.join(words)}"
            status, output = adb.shell(self.device, command, runner.TIMEOUT_S)
            if status:
                raise UserError(f"{program.name}: {_why(status, output)}")
            for name in (runner.RESULT, runner.LOGITS):
                adb.pull(self.device, f"{self.folder}/{name}", here / name)
            return runner.read(here)

    def _put(self, content: bytes, name: str) -> str:
        """Copy `content` into the folder under a name made of `name` and its sha256, unless it is there."""
        sha256 = hashlib.sha256(content).hexdigest()
        if name != _RUNNER:
            name = f"{sha256[:12]}-{name}"
        if name in self._there:
            return name
        with tempfile.NamedTemporaryFile() as local:
            local.write(content)
            local.flush()
            adb.push(self.device, Path(local.name), f"{self.folder}/{name}")
        found = self._do(f"sha256sum {self.folder}/{name}").split()
        if found[:1] != [sha256]:
            there = "".join(found[:1])[:12]
            raise UserError(f"{name} arrived damaged on adb device {self.device.serial} (its sha256 is {there}.., "
                            f"expected {sha256[:12]}..); try another cable or port")  # fmt: skip
        self._there.add(name)
        return name

    def _do(self, command: str) -> str:
        """What `command` prints on the phone; a `UserError` where it fails."""
        status, output = adb.shell(self.device, command)
        if status:
            where = f"adb device {self.device.serial}"
            if "No space left" in output:
                raise UserError(f"no space left in {FOLDER} of {where}; free some and try again")
            raise UserError(f"`{command}` failed on {where}: {runner.last_line(output) or f'status {status}'}")
        return output

    def _read_properties(self) -> dict[str, str]:
        lines = self._do("; ".join(f"getprop {name}" for name in _PROPERTIES.values())).splitlines()
        lines += [""] * (len(_PROPERTIES) - len(lines))
        return dict(zip(_PROPERTIES, (line.strip() for line in lines), strict=False))

    def _read_cores(self) -> dict[int, int]:
        """The cores that are switched on and their highest clocks in kHz; 0 where it is not told."""
        output = self._do(
            "cat /sys/devices/system/cpu/online; for c in /sys/devices/system/cpu/cpu[0-9]*; do "
            'echo "${c##*/cpu} $(cat $c/cpufreq/cpuinfo_max_freq 2>/dev/null)"; done'
        )
        # Among it may be what a program said on standard error.
        clocks = {int(core): int(khz or 0) for core, khz in re.findall(r"^(\d+) (\d*)\s*$", output, re.MULTILINE)}
        return {core: clocks.get(core, 0) for core in _numbers(output.partition("\n")[0].strip()) or clocks}


def elf_machine(path: Path) -> str:
    """The Android ABI that the program at `path` is built for; anything else than a program is a `UserError`."""
    try:
        with open(path, "rb") as stream:
            header = stream.read(20)
    except OSError as error:
        raise UserError(f"--runner {path}: {error.strerror}; give the dirnet_runner built for the phone") from None
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise UserError(f"--runner {path} is no ELF program; give the dirnet_runner built for the phone")
    machine = struct.unpack("<H", header[18:20])[0]
    return _MACHINES.get(machine, f"ELF machine {machine}")


def choose_cores(clocks: dict[int, int], cluster: str, threads: int) -> list[int]:
    """The cores of `cluster` among those with `clocks` (kHz), in order; fewer than `threads` is a `UserError`."""
    if not clocks:
        raise UserError("the phone tells none of its cores in /sys/devices/system/cpu; measure on another one")
    if cluster == "all":
        cores = list(clocks)
    elif cluster in CLUSTERS:
        wanted = (max if cluster == "big" else min)(clocks.values())
        cores = [core for core, clock in clocks.items() if clock == wanted]
    else:
        cores = _numbers(cluster)
        if not cores or not set(cores) <= set(clocks):
            raise UserError(f"--cluster is {cluster!r}, expected {', '.join(CLUSTERS)} or some of the cores that are "
                            f"on: {','.join(map(str, sorted(clocks)))}")  # fmt: skip
    if not 1 <= threads <= len(cores):
        raise UserError(f"--threads is {threads}, expected 1..{len(cores)}, the cores of --cluster {cluster}")
    return sorted(cores)


def _numbers(text: str) -> list[int]:
    """0, 1, 2, 3, 6 of "0-3,6"; nothing of any other text."""
    if not re.fullmatch(r"\d{1,3}(-\d{1,3})?(,\d{1,3}(-\d{1,3})?)*", text):
        return []
    ranges = ([int(end) for end in part.split("-")] for part in text.split(","))
    return sorted({core for ends in ranges for core in range(ends[0], ends[-1] + 1)})


def _why(status: int, output: str) -> str:
    """One line for a runner that ended with `status`."""
    if status == _KILLED:
        return "the runner was killed on the phone, by a lack of memory most likely; close other apps and try again"
    line = runner.last_line(output)
    if status in _NOT_RUN:
        return f"the runner does not start on the phone ({line}); was it built for this Android? taskset comes with 6.0"
    return line or f"the runner ended with status {status} on the phone"
