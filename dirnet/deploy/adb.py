"""Android devices that `adb` can reach, every obstacle told in one line."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

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


def _listed() -> list[tuple[str, str, str]]:
    """(serial, state, the rest of the line) of every line of `adb devices -l`."""
    client = shutil.which("adb")
    if client is None:
        raise UserError("no adb client on PATH; install it (Debian: apt install adb), or measure with --device host")
    try:
        result = subprocess.run([client, "devices", "-l"], capture_output=True, text=True, timeout=30)
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
