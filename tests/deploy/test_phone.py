import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dirnet.deploy import adb, phone, runner
from dirnet.deploy.rtf import main
from dirnet.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
import adbd  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("adb") is None or shutil.which("g++") is None,
    reason="adb or g++ is not installed (apt install adb g++)",
)
AARCH64 = os.environ.get("DIRNET_EXECUTORCH_AARCH64", "")  # an ExecuTorch built for Linux on aarch64
SOURCES = Path(runner.__file__).parent / "csrc/runner"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An adb server of our own: its port, its keys."""
    with pytest.MonkeyPatch.context() as patch:
        with socket.create_server(("127.0.0.1", 0)) as free:
            patch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
        patch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        subprocess.run(["adb", "start-server"], capture_output=True, check=True)
        yield
        subprocess.run(["adb", "kill-server"], capture_output=True)


@pytest.fixture
def plug(server, tmp_path):
    """`plug(trouble="")`: a new phone that adb is connected to."""
    phones = []

    def plug_in(trouble=""):
        new = adbd.Phone(tmp_path / f"phone{len(phones)}")
        phones.append(new)
        new.trouble = trouble
        connect = subprocess.Popen(["adb", "connect", new.serial], stdout=subprocess.DEVNULL)
        wanted = trouble or "device"
        for _ in range(100):
            listed = subprocess.run(["adb", "devices"], capture_output=True, text=True).stdout
            if f"{new.serial}\t{wanted}\n" in listed:
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"adb does not list {new.serial} as {wanted}: {listed}")
        if trouble != "offline":  # there the client waits ten seconds
            connect.wait()
        return new

    yield plug_in
    for one in phones:
        one.close()
        subprocess.run(["adb", "disconnect", one.serial], capture_output=True)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A program of this machine that does what `dirnet_runner` does, by the same C++ in ExecuTorch's wheel."""
    folder = tmp_path_factory.mktemp("native")
    root = Path(runner.__file__).parent.parent.parent
    (folder / "main.cpp").write_text(
        "#include <stdlib.h>\n#include <unistd.h>\n#include <vector>\nint main(int, char** words) {\n"
        f'  std::vector<char*> all = {{(char*)"{sys.executable}", (char*)"-m", (char*)"dirnet.deploy.runner"}};\n'
        "  while (*++words) all.push_back(*words);\n  all.push_back(nullptr);\n"
        f'  setenv("PYTHONPATH", "{root}", 1);\n  return execv(all[0], all.data());\n}}\n'
    )
    subprocess.run(["g++", folder / "main.cpp", "-o", folder / "dirnet_runner"], check=True)
    return folder / "dirnet_runner"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runner, "TURNS", 1)


def test_a_program_is_timed_and_nothing_stays_on_the_phone(plug, native, quick, exports, tmp_path, program):
    plugged = plug()
    np.save(tmp_path / "feats.npy", np.random.default_rng(0).normal(size=(70, 26)))
    status, text, error = program(
        main, "--model", exports / "dense/encoder.pte", "--feats", tmp_path / "feats.npy", "--seconds", 0.1,
        "--device", f"adb:{plugged.serial}", "--runner", native, "--out", tmp_path / "rtf.json",
    )  # fmt: skip
    assert status == 0 and "RTF = elapsed / audio = " in text, error
    result = json.loads((tmp_path / "rtf.json").read_text())
    assert (result["device"], result["cpu"]) == ("Loopback Stand-in over adb", "Debian QEMU")
    assert result["system"] == "Android 14, x86_64" and result["cluster_cores"] == [2, 3]
    assert result["calls"] == 1000 and result["audio_s"] == pytest.approx(10) and result["called_from"] == "C++"
    assert 0 < result["us_per_frame"]["min"] <= result["us_per_frame"]["p50"] <= result["us_per_frame"]["p95"]
    assert result["parity"] < 1e-4 and result["load_ms"] > 0 and result["peak_rss_bytes"] > 1e6
    assert any("&& taskset c ./dirnet_runner" in command for command in plugged.commands)  # cores 2 and 3
    assert plugged.files == []


@pytest.mark.parametrize(
    "trouble, victim, message",
    [
        ("no space", "model.pte", "no space left for /data/local/tmp/dirnet-"),
        ("damage", "dirnet_runner", "dirnet_runner arrived damaged on adb device"),
        ("damage", "features.npy", "features.npy arrived damaged on adb device"),
        ("drop push", "model.pte", "does not go on ("),
        ("drop", "taskset", "does not go on (the connection ended); look at the cable"),
        ("kill", "taskset", "the runner was killed on the phone, by a lack of memory"),
        ("hang", "taskset", "gave no answer to `adb shell` in 2 s; look whether it sleeps"),
    ],
)
def test_trouble_is_one_line(plug, native, quick, exports, monkeypatch, program, trouble, victim, message):
    plugged = plug()
    plugged.trouble, plugged.victim = trouble, victim
    monkeypatch.setattr(runner, "TIMEOUT_S", 2)
    status, _, error = program(main, "--model", exports / "dense/encoder.pte", "--device", "adb", "--runner", native)
    lines = [line for line in error.splitlines() if "error:" in line]
    assert status == 2 and len(lines) == 1 and message in lines[0], error
    if "drop" not in trouble:  # who is gone cannot be cleaned
        assert plugged.files == []


def test_a_phone_that_is_not_ready(plug, native, program):
    model = ("--model", "x.pte", "--runner", native, "--device")
    first = plug()
    for trouble, message in (
        ("unauthorized", 'is unauthorized; unlock the phone and accept its "Allow USB debugging?"'),
        ("offline", "is offline; unplug and plug it again"),
    ):
        status, _, error = program(main, *model, f"adb:{plug(trouble).serial}")
        assert status == 2 and message in error
    status, _, error = program(main, *model, "adb")
    assert status == 2 and "3 devices answer adb: 127.0.0.1" in error and first.serial in error
    status, _, error = program(main, *model, "adb:R58M")
    assert status == 2 and "adb device R58M not found" in error


def test_a_device_that_went_away(plug):
    plugged = plug()
    device = adb.find_device(plugged.serial)
    assert adb.shell(device, "echo out; echo err >&2; exit 3")[0] == 3
    assert adb.shell(device, "true") == (0, "")
    plugged.close()
    with pytest.raises(UserError, match=rf"adb device {plugged.serial} does not go on \("):
        adb.shell(device, "true")
        adb.shell(device, "true")


def test_a_runner_of_another_machine(plug, tmp_path, native, program):
    plug()
    content = bytearray(native.read_bytes())
    arm = tmp_path / "arm"
    content[18:20] = (40).to_bytes(2, "little")
    arm.write_bytes(content)
    (tmp_path / "script").write_text("#!/bin/sh\n")
    for path, message in (
        (arm, "is built for armeabi-v7a, the phone runs arm64-v8a or x86_64; build it with the NDK"),
        (tmp_path / "script", "is no ELF program"),
        (tmp_path / "absent", "No such file or directory; give the dirnet_runner"),
    ):
        status, _, error = program(main, "--model", "x.pte", "--device", "adb", "--runner", path)
        assert status == 2 and message in error
    status, _, error = program(main, "--model", "x.pte", "--device", "adb")
    assert status == 2 and "--device adb needs --runner" in error


@pytest.mark.parametrize(
    "cluster, threads, cores",
    [
        ("big", 1, [7]),
        ("little", 2, [0, 1, 2, 3]),
        ("all", 8, list(range(8))),
        ("4-6", 3, [4, 5, 6]),
        ("0,7", 1, [0, 7]),
    ],
)
def test_the_cores_of_a_cluster(cluster, threads, cores):
    clocks = dict(enumerate([1_700_000] * 4 + [2_400_000] * 3 + [3_000_000]))
    assert phone.choose_cores(clocks, cluster, threads) == cores
    with pytest.raises(UserError, match=rf"--threads is {len(cores) + 1}, expected 1..{len(cores)}"):
        phone.choose_cores(clocks, cluster, len(cores) + 1)


@pytest.mark.parametrize(
    "output, clocks",
    [
        ("0-1\n0 1700000\n1 2400000\n2 3000000\n", {0: 1_700_000, 1: 2_400_000}),  # core 2 is off
        ("0-1\r\n0 \r\n1 2400000\r\n", {0: 0, 1: 2_400_000}),
        ("0 1700000\n1 2400000\ncat: /sys/.../online: Permission denied\n", {0: 1_700_000, 1: 2_400_000}),
        ("0\n0 1700000\nWARNING: linker: unused DT entry\n", {0: 1_700_000}),
    ],
)
def test_the_cores_that_a_phone_tells(native, monkeypatch, output, clocks):
    target = phone.Phone(native)
    monkeypatch.setattr(target, "_do", lambda command: output)
    assert target._read_cores() == clocks


@pytest.mark.parametrize("cluster", ["", "fast", "8", "6-9", "3-1", "1,", "-1"])
def test_a_cluster_that_is_none(cluster):
    with pytest.raises(UserError, match="--cluster is .*, expected big, little, all or some .* that are on: 0,1"):
        phone.choose_cores({0: 0, 1: 0}, cluster, 1)


@pytest.mark.parametrize("cluster", ["big", "little", "all", "0"])
def test_a_phone_that_tells_no_cores(cluster):
    with pytest.raises(UserError, match="tells none of its cores"):
        phone.choose_cores({}, cluster, 1)


@pytest.mark.skipif(not AARCH64, reason="DIRNET_EXECUTORCH_AARCH64 does not name an ExecuTorch built for aarch64 Linux")
@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="qemu-user-static is not installed")
def test_the_aarch64_program_under_an_emulator(plug, exports, tmp_path, program):
    build = ["cmake", "-S", SOURCES, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={AARCH64}",
             "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
             "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++", "-DCMAKE_EXE_LINKER_FLAGS=-static"]  # fmt: skip
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True, capture_output=True)
    plugged = plug()
    plugged.tool("taskset", 'shift; exec qemu-aarch64-static "$@"')
    shutil.copytree(exports, tmp_path / "exp")
    folders = [tmp_path / "exp" / name for name in ("dense", "compressed")]
    status, text, error = program(main, "--compare", *folders, "--seconds", 0.1, "--device", "adb",
                                  "--runner", tmp_path / "build/dirnet_runner")  # fmt: skip
    assert status == 0, error
    for folder in folders:
        result = json.loads((folder / "rtf.json").read_text())
        assert result["system"] == "Android 14, arm64-v8a" and result["peak_rss_bytes"] < 1e8
        assert result["verification"] == "InternalConsistency" and result["speed_up"] > 0
        assert {row["engine"] for row in result["engines"]} <= {"executorch xnnpack", "executorch dirnet"}
        assert all(row["parity"] < 1e-4 and row["calls"] >= 1000 for row in result["engines"])
    assert plugged.files == []
