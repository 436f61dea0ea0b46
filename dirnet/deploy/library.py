"""The shared library of our ExecuTorch operators: built with the user's compiler on first use, cached, loaded once."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from dirnet.deploy.runtime import muted
from dirnet.errors import UserError

SOURCES = Path(__file__).parent / "csrc"
OPERATORS = ("dirnet::splice.out", "dirnet::project.out", "dirnet::rnn_layer.out")
FLAGS = ("-std=c++17", "-O3", "-fopenmp-simd", "-fPIC", "-shared", "-Wall", "-Wextra")


def load() -> None:
    """Register the `dirnet::*` operators with ExecuTorch's runtime in this process, building them if need be.

    Raises `UserError` without a C++ compiler, or when the build fails.
    """
    with muted():
        from executorch.runtime import Runtime

    registered = Runtime.get().operator_registry.operator_names
    if set(OPERATORS) <= set(registered):  # a second copy would abort the process
        return
    ctypes.CDLL(str(build()))


def build() -> Path:
    """Path of the shared library for this machine, compiler and ExecuTorch; compiles in a few seconds if not cached."""
    compiler = find_compiler()
    command = _command(compiler)
    key = hashlib.sha256("\0".join([*command, *_versions(compiler)]).encode())
    for source in sorted(SOURCES.iterdir()):
        key.update(source.read_bytes())
    library = cache_folder() / f"dirnet_ops-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        fresh = Path(folder) / library.name
        result = subprocess.run([*command, "-o", str(fresh)], capture_output=True, text=True)
        if result.returncode:
            lines = result.stderr.splitlines() or ["no message"]
            first = next((line for line in lines if "error" in line), lines[0])
            raise UserError(f"{compiler} cannot build {SOURCES / 'ops.cpp'}: {first}; set CXX to g++ 9 or clang++ 10, "
                            "or export with --backend xnnpack")  # fmt: skip
        os.replace(fresh, library)
    return library


def find_compiler() -> str:
    """$CXX, g++ or clang++, whichever is there first; none is a `UserError`."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    for name in wanted:
        if path := shutil.which(name):
            return path
    raise UserError(f"no C++ compiler: {' and '.join(wanted)} not found on PATH; install g++ or set CXX, "
                    "or export with --backend xnnpack (stock operators)")  # fmt: skip


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/dirnet, by default ~/.cache/dirnet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dirnet"


def executorch_folder() -> Path:
    """Where the installed ExecuTorch wheel lives (a namespace package: it has no __file__)."""
    import executorch

    return Path(next(iter(executorch.__path__)))


def _command(compiler: str) -> list[str]:
    root = executorch_folder()
    runtime = root / "extension/pybindings" / f"_portable_lib{sysconfig.get_config_var('EXT_SUFFIX')}"
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    c10 = root / "include/executorch/runtime/core/portable_type/c10"
    includes = [f"-I{root / 'include'}", f"-I{c10}", "-DC10_USING_CUSTOM_GENERATED_MACROS"]
    return [compiler, *FLAGS, native, str(SOURCES / "ops.cpp"), *includes, str(runtime)]


@functools.lru_cache
def _versions(compiler: str) -> tuple[str, ...]:
    """What else decides whether a cached library fits: compiler, ExecuTorch, and the processor (-march=native)."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    processor = platform.processor()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        processor = "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return version, importlib.metadata.version("executorch"), processor
