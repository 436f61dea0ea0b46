import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent / "dirnet/deploy/csrc"
WARNINGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fopenmp-simd", f"-I{SOURCES}"]
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("flags", [SANITIZERS, ["-O3", "-march=native"]], ids=["sanitizers", "native"])
def test_kernels_equal_the_plain_reference(tmp_path, flags):
    program = tmp_path / "kernels_test"
    subprocess.run(["g++", *WARNINGS, *flags, str(HERE / "kernels_test.cpp"), "-o", str(program)], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip() == "all equal"
