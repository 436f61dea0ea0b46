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
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dirnet.deploy.runtime import muted
from dirnet.errors import UserError

SOURCES = Path(__file__).parent / "csrc"
OPERATORS = ("dirnet::splice.out", "dirnet::rnn_layer.out")
FLAGS = ("-std=c++17", "-O3", "-fopenmp-simd", "-fPIC", "-Wall", "-Wextra")
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = tuple(f"-mavx512{name}" for name in ("f", "bw", "dq", "vl", "vnni", "vbmi", "vbmi2"))
_DOTPROD = ("-march=armv8.2-a+dotprod",)
_PATHS: dict[str, tuple[str, ...]] = (  # which of them runs is chosen when the library is loaded
    {"kernels_avx2.cpp": _AVX2, "kernels_avx512.cpp": (*_AVX2, *_AVX512, "-mprefer-vector-width=512")}
    if platform.machine() in ("x86_64", "AMD64")
    else {"kernels_neon.cpp": (), "kernels_neon_dotprod.cpp": _DOTPROD}
)
UNITS = {"ops.cpp": (), "kernels.cpp": (), "kernels_plain.cpp": ()} | _PATHS  # files of csrc/ and flags of their own


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
    """Path of the operators' library; compiles in about half a minute if it is not cached."""
    return compiled("dirnet_ops", {SOURCES / name: flags for name, flags in UNITS.items()})


def compiled(name: str, units: Mapping[Path, Sequence[str]]) -> Path:
    """Path of the shared library of `units`, files of `csrc/` and the flags of each, on this host's ExecuTorch.

    Cached by the content of all sources, compiler, flags, ExecuTorch and processor; raises as `load` does.
    """
    compiler = find_compiler()
    commands = {source: [compiler, *FLAGS, *flags, *_includes()] for source, flags in units.items()}
    key = hashlib.sha256("\0".join([*_versions(compiler), *(" ".join(words) for words in commands.values())]).encode())
    for source in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        key.update(source.read_bytes())
    library = cache_folder() / f"{name}-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    print(f"compiling {name} with {compiler}, once, about half a minute", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        objects = {source: Path(folder) / f"{source.stem}.o" for source in units}
        _run(compiler, {unit: [*commands[unit], "-c", str(unit), "-o", str(at)] for unit, at in objects.items()})
        fresh = Path(folder) / library.name
        runtime = executorch_folder() / f"extension/pybindings/_portable_lib{sysconfig.get_config_var('EXT_SUFFIX')}"
        link = [compiler, "-shared", *map(str, objects.values()), str(runtime), "-o", str(fresh)]
        _run(compiler, {SOURCES: link})
        os.replace(fresh, library)
    return library


def _run(compiler: str, commands: dict[Path, list[str]]) -> None:
    """Run the commands side by side; the first that fails is a `UserError` that names its key."""
    running = {
        source: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for source, command in commands.items()
    }
    messages = {source: process.communicate()[1] for source, process in running.items()}
    for source, process in running.items():
        if process.returncode:
            lines = messages[source].splitlines() or ["no message"]
            first = next((line for line in lines if "error" in line), lines[0])
            raise UserError(f"{compiler} cannot build {source}: {first}; set CXX to g++ 9 or clang++ 10, "
                            "or export with --backend xnnpack")  # fmt: skip


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


def _includes() -> list[str]:
    root = executorch_folder()
    c10 = root / "include/executorch/runtime/core/portable_type/c10"
    return [f"-I{SOURCES}", f"-I{root / 'include'}", f"-I{c10}", "-DC10_USING_CUSTOM_GENERATED_MACROS"]


@functools.lru_cache
def _versions(compiler: str) -> tuple[str, ...]:
    """What else decides whether a cached library fits: compiler, ExecuTorch, and the processor (-mcpu=native)."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    processor = platform.processor()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        processor = "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return version, importlib.metadata.version("executorch"), processor
