import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from dirnet.deploy import library

TEST = Path(__file__).parent / "kernels_test.cpp"
WARNINGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fopenmp-simd", f"-I{library.SOURCES}"]
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CROSS = ["-O2", "-static", "-Wno-psabi"]
DOTPROD = ["-march=armv8.2-a+dotprod"]


def run_test(folder, compiler, flags, units, emulator=(), *arguments):
    """Build every unit with its own flags, link, run by the emulator; the lines that the test printed."""
    units = {library.SOURCES / name: own for name, own in units.items()} | {TEST: ()}
    jobs = [
        subprocess.Popen([compiler, *WARNINGS, *flags, *own, "-c", str(source), "-o", str(folder / f"{source.stem}.o")])
        for source, own in units.items()
    ]
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    objects = [str(folder / f"{source.stem}.o") for source in units]
    subprocess.run([compiler, *flags, *objects, "-o", str(folder / "test")], check=True)
    result = subprocess.run([*emulator, folder / "test", *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("all equal\n")
    return result.stdout.splitlines()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("flags", [SANITIZERS, ["-O3"]], ids=["sanitizers", "fast"])
def test_every_path_of_this_processor_equals_the_plain_reference(tmp_path, flags):
    units = {name: own for name, own in library.UNITS.items() if name.startswith("kernels")}
    lines = run_test(tmp_path, "g++", flags, units)
    paths = [line.partition(":")[0] for line in lines[:-1]]
    assert paths[-1] == "plain"
    if platform.machine() == "x86_64":
        assert [path for path in paths if path in ("avx512", "avx2", "plain")] == paths
        assert "avx2" not in Path("/proc/cpuinfo").read_text() or "avx2" in paths


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64-static")),
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user-static",
)
def test_the_phones_paths_equal_the_plain_reference_under_emulation(tmp_path):
    units = {"kernels.cpp": (), "kernels_plain.cpp": (), "kernels_neon.cpp": (), "kernels_neon_dotprod.cpp": DOTPROD}
    emulator = ("qemu-aarch64-static", "-cpu")
    lines = run_test(tmp_path, "aarch64-linux-gnu-g++", CROSS, units, (*emulator, "max"), "quick")
    assert [line.partition(":")[0] for line in lines[:-1]] == ["neon-dotprod", "neon", "plain"]
    older = subprocess.run([*emulator, "cortex-a57", tmp_path / "test", "quick"], capture_output=True, text=True)
    assert [line.partition(":")[0] for line in older.stdout.splitlines()] == ["neon", "plain", "all equal"]
