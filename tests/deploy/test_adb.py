import shutil
import subprocess
from pathlib import Path

import pytest

from dirnet.deploy import adb
from dirnet.errors import UserError

ROOT = Path(__file__).parent.parent.parent
READY = "R58M device usb:1-2 product:a model:Pixel_7 device:p transport_id:1\n"
SECOND = "emulator-5554 device product:sdk model:sdk_phone transport_id:2\n"


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """`phone(lines)` puts an adb client on PATH that lists these devices."""
    (tmp_path / "bin").mkdir()
    client = shutil.copy(Path(__file__).parent / "fake_adb", tmp_path / "bin/adb")
    Path(client).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return lambda lines: monkeypatch.setenv("FAKE_ADB_DEVICES", lines)


def test_the_only_device_needs_no_name(phone):
    phone(READY)
    assert adb.find_device() == adb.Device("R58M", "Pixel_7")


def test_one_of_several_by_its_serial(phone):
    phone(READY + SECOND)
    assert adb.find_device("emulator-5554").model == "sdk_phone"
    with pytest.raises(UserError, match="2 devices answer adb: R58M, emulator-5554; choose with --device adb:SERIAL"):
        adb.find_device()
    with pytest.raises(UserError, match="adb device X not found .there: R58M, emulator-5554"):
        adb.find_device("X")


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "no device answers adb; plug in a phone"),
        ("R58M unauthorized usb:1-2 transport_id:1\n", "R58M is unauthorized; unlock the phone"),
        ("R58M offline transport_id:1\n", "R58M is offline; unplug"),
        ("R58M no permissions (missing udev rules?); see [http] usb:1\n", "R58M is no permissions; add a udev rule"),
        ("R58M strange\n", "R58M is strange; see `adb devices`"),
    ],
)
def test_every_other_state_is_told(phone, line, message):
    phone(line)
    with pytest.raises(UserError, match=message):
        adb.find_device()


def test_no_client_and_a_broken_client(phone, monkeypatch):
    monkeypatch.setenv("FAKE_ADB_FAILS", "1")
    with pytest.raises(UserError, match="failed to start daemon.*kill-server"):
        adb.find_device()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no adb client on PATH; install it"):
        adb.find_device()


def test_the_script_passes_serial_and_runner(phone, tmp_path, monkeypatch):
    phone(READY)
    recorder = tmp_path / "python"
    recorder.write_text('#!/bin/sh\necho "$@"\n')
    recorder.chmod(0o755)
    command = ["local/android_rtf.sh", "--python", str(recorder), "--serial", "R58M", "--runner", "build/dirnet_runner",
               "exp/x/encoder.pte"]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split() == ["-m", "dirnet.deploy.rtf", "--model", "exp/x/encoder.pte", "--device", "adb:R58M",
                                     "--runner", "build/dirnet_runner", "--cluster", "big",
                                     "--out", "exp/x/rtf_android.json"]  # fmt: skip
    assert subprocess.run(["local/android_rtf.sh"], cwd=ROOT, capture_output=True).returncode == 1
