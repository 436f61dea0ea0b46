"""Android devices that `adb` can reach: found, commanded, filled; every obstacle told in one line."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dirnet.errors import UserError

_ADVICE = {
    "unauthorized": "unlock the phone and accept its \"Allow USB debugging?\" question",
    "offline": "unplug and plug it again, or run `adb reconnect`",
    "no permissions": "add a udev rule for it (Debian: package android-sdk-platform-tools-common) and plug it again",
    "authorizing": "wait a moment and try again",
    "recovery": "start Android on it",
    "bootloader": "start Android on it",
    "sideload": "start Android on it",
}
_STATUS = "dirnet-status="  # a line of our own: old devices do not tell the exit status of a command


@dataclass(frozen=True)
class Device:
    """A device ready for commands. serial: as in `adb -s`; model: as the device names itself, may be empty."""

    serial: str
    model: str


def find_device(serial: str = "") -> Device:
    """The device called `serial`, or the only one. No client, no or several devices, or one not ready: `UserError`."""
    lines = {found: (state, rest) for found, state, rest in _listed()}
    if serial and serial not in lines:
        there = f"there: {', '.join(lines)}" if lines else "no device is there"
        raise UserError(f"adb device {serial} not found ({there}); give one that `adb devices` lists")
    if not lines:
        raise UserError("no device answers adb; plug in a phone with USB debugging on, or measure with --device host")
    if not serial and len(lines) > 1:
        raise UserError(f"{len(lines)} devices answer adb: {', '.join(lines)}; choose with --device adb:SERIAL")
    serial = serial or next(iter(lines))
    state, rest = lines[serial]
    if state != "device":
        advice = next((text for name, text in _ADVICE.items() if state.startswith(name)), "see `adb devices`")
        raise UserError(f"adb device {serial} is {state}; {advice}")
    model = re.search(r"\bmodel:(\S+)", rest)
    return Device(serial, model[1] if model else "")


def shell(device: Device, command: str, timeout: float = 30) -> tuple[int, str]:
    """Run `command` in the device's shell: its exit status, and what it printed on both streams.

    A device that goes away, or gives no answer in `timeout` seconds, is a `UserError`.
    """
    result = _adb(device, ["shell", f"({command}\n)\necho {_STATUS}$?"], timeout)
    output, marker, status = result.stdout.rpartition(_STATUS)
    if not marker or not status.strip().isdigit():  # the client's own exit status tells too little
        raise UserError(_lost(device, result.stderr))
    return int(status), output + result.stderr


def push(device: Device, local: Path, remote: str, timeout: float = 300) -> None:
    """Copy a file to the device."""
    _copied(device, _adb(device, ["push", str(local), remote], timeout), remote)


def pull(device: Device, remote: str, local: Path, timeout: float = 300) -> None:
    """Copy a file from the device."""
    _copied(device, _adb(device, ["pull", remote, str(local)], timeout), str(local))


def _adb(device: Device, words: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [_client(), "-s", device.serial, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"adb device {device.serial} gave no answer to `adb {words[0]}` in {timeout:g} s; look whether "
                        "it sleeps or is busy, reconnect it and try again") from None  # fmt: skip


def _copied(device: Device, result: subprocess.CompletedProcess[str], to: str) -> None:
    """A `UserError` unless the copy to `to` went well."""
    if result.returncode == 0:
        return
    said = result.stderr + result.stdout  # the client tells a refusal of the device on either
    if "No space left" in said:
        raise UserError(f"no space left for {to} on adb device {device.serial}; free some and try again")
    raise UserError(_lost(device, said))


def _lost(device: Device, said: str) -> str:
    """One line for a device that stopped answering, `said` being what the client printed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = next((line for line in lines if "error: " in line), lines[-1] if lines else "the connection ended")
    reason = re.sub(r"^(adb: )?error: ", "", told)
    advice = next((text for name, text in _ADVICE.items() if name in reason), "look at the cable and at `adb devices`")
    return f"adb device {device.serial} does not go on ({reason}); {advice}, then run it again"


def _client() -> str:
    client = shutil.which("adb")
    if client is None:
        raise UserError("no adb client on PATH; install it (Debian: apt install adb), or measure with --device host")
    return client


def _listed() -> list[tuple[str, str, str]]:
    """(serial, state, the rest of the line) of every line of `adb devices -l`."""
    try:
        result = subprocess.run([_client(), "devices", "-l"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        raise UserError("adb devices gave no answer in 30 s; run `adb kill-server` and try again") from None
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"adb devices failed ({reason}); run `adb kill-server` and try again")
    # Serials hold no blanks; the only states of two words are "no permissions" and "no device".
    pattern = re.compile(r"^(\S+)\s+(no permissions|no device|\S+)(.*)$")
    lines = result.stdout.splitlines()
    start = next((n + 1 for n, line in enumerate(lines) if line.startswith("List of devices")), 0)
    return [match.groups() for line in lines[start:] if (match := pattern.match(line))]
