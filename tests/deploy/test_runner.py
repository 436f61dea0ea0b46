import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from dirnet.deploy import library, onnx_engine, runner
from dirnet.deploy.engines import program_engine
from dirnet.deploy.program import Program
from dirnet.deploy.rtf import main
from dirnet.errors import UserError

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
EXECUTORCH = os.environ.get("DIRNET_EXECUTORCH", "")  # an ExecuTorch built for this machine


@pytest.fixture
def features(tmp_path):
    """70 frames, in a file and as a tensor."""
    values = 10 * np.random.default_rng(0).normal(size=(70, 26)).astype("float32")
    np.save(tmp_path / "features.npy", values)
    return tmp_path / "features.npy", torch.from_numpy(values)


def run(folder, *words):
    """The JSON and the logits of a run that leaves both in `folder`."""
    words = [*words, "--out", folder / runner.RESULT, "--logits", folder / runner.LOGITS]
    assert runner.call(list(map(str, words))) is None
    return runner.read(folder)


@pytest.mark.parametrize("model, chunk", [("compressed", 16), ("compressed", 7), ("compressed", 1), ("dense", 1)])
def test_its_logits_are_those_of_the_stream_in_python(exports, features, tmp_path, model, chunk):
    path, values = features
    program = exports / model / "encoder.pte"
    report, logits = run(tmp_path, "--program", program, "--features", path, "--chunk", chunk, "--calls", 20)
    expected = Program(program).stream(values, chunk)
    assert np.abs(logits - expected.numpy()).max() < 1e-5
    assert (report["chunk"], report["features"], report["logits"]) == (chunk, [70, 26], [70, 42])
    assert report["bytes"] == program.stat().st_size
    assert report["backend"] == {"compressed": "dirnet", "dense": "xnnpack"}[model]


def test_its_figures_are_those_of_its_calls(exports, features, tmp_path):
    path, _ = features
    report, _ = run(tmp_path, "--program", exports / "compressed/encoder.pte", "--features", path)
    calls = np.array(report["call_us"])
    assert report["calls"] == len(calls) == 1000 and report["audio_s"] == pytest.approx(160)
    for name, percent in (("min", 0), ("p50", 50), ("p95", 95)):
        assert report["us_per_call"][name] == pytest.approx(np.percentile(calls, percent), rel=1e-6)
        assert report["us_per_frame"][name] == pytest.approx(np.percentile(calls, percent) / 16, rel=1e-6)
    assert report["elapsed_s"] == pytest.approx(calls.sum() / 1e6) and report["elapsed_s"] <= report["wall_s"] * 1.05
    assert report["rtf"] == pytest.approx(report["elapsed_s"] / 160)
    assert report["clock"] == "cpu" and len(report["cores"]) == 1


def test_clock_and_temperature_come_from_sysfs(exports, features, tmp_path):
    words = ("--program", exports / "compressed/encoder.pte", "--features", features[0], "--calls", 5)
    core = run(tmp_path, *words)[0]["cores"][0]
    frequency = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
    frequency.mkdir(parents=True)
    (frequency / "scaling_cur_freq").write_text("2400000\n")
    zones = (("battery", 99000), ("cpu-0-0", 41500), ("cpuss-1", 38000), ("cpu-broken", -274000))
    for number, (kind, value) in enumerate(zones):
        folder = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{kind}\n")
        (folder / "temp").write_text(f"{value}\n")
    report, _ = run(tmp_path, *words, "--sys", tmp_path / "sys")
    assert report["before"] == report["after"] == {"khz": 2400000, "celsius": 41.5}
    report, _ = run(tmp_path, *words, "--sys", tmp_path / "nowhere")
    assert report["before"] == {"khz": None, "celsius": None}


def test_mistakes_are_one_line(exports, features, tmp_path):
    path, values = features
    program, dense = (str(exports / name / "encoder.pte") for name in ("compressed", "dense"))
    content = Path(program).read_bytes()
    (tmp_path / "short.pte").write_bytes(content[:20000])
    (tmp_path / "text.pte").write_text("text " * 50)
    (tmp_path / "empty.pte").write_bytes(b"")
    np.save(tmp_path / "narrow.npy", values[:, :13].numpy().copy())
    np.save(tmp_path / "double.npy", values.double().numpy())
    np.save(tmp_path / "none.npy", values[:0].numpy())
    np.save(tmp_path / "nan.npy", np.full((3, 26), np.nan, "float32"))
    (tmp_path / "cut.npy").write_bytes(path.read_bytes()[:-3])
    (tmp_path / "head.npy").write_bytes(path.read_bytes()[:11])
    good = ["--program", program, "--features", str(path)]
    cases = [
        ([], "--program and --features are needed"),
        (["--programme", "x"], "unknown option '--programme'"),
        ([*good, "--calls"], "option --calls lacks its value"),
        ([*good, "--calls", "0"], "--calls is '0', expected a number from 1 on"),
        ([*good, "--calls", "12x"], "--calls is '12x'"),
        ([*good, "--chunk", "65"], "--chunk is 65, expected 1..64 for this program"),
        (["--program", dense, "--features", str(path), "--chunk", "2"], "--chunk is 2, expected 1 for this program"),
        ([*good, "--cores", "x"], "--cores is 'x', expected numbers such as 4-7"),
        ([*good, "--cores", "3-1"], "--cores is '3-1'"),
        ([*good, "--cores", "1023"], "cannot run on the wanted cores"),
        ([*good, "--cores", "0", "--threads", "2"], "--threads is 2, expected at most 1"),
        ([*good, "--out", str(tmp_path / "no/x")], "no/x; is the folder there"),
        (["--program", str(tmp_path / "no.pte"), "--features", "x"], "no.pte is not there"),
        (["--program", str(tmp_path), "--features", "x"], "is not there or cannot be read"),
        (["--program", str(tmp_path / "short.pte"), "--features", "x"], "short.pte has 20000 bytes, expected"),
        (["--program", str(tmp_path / "text.pte"), "--features", "x"], "is not an ExecuTorch program"),
        (["--program", str(tmp_path / "empty.pte"), "--features", "x"], "is not an ExecuTorch program"),
        (["--program", program, "--features", str(tmp_path / "no.npy")], "no.npy are not there"),
        (["--program", program, "--features", str(tmp_path / "narrow.npy")], "are 13 wide, the program reads 26"),
        (["--program", program, "--features", str(tmp_path / "nan.npy")], "hold a value that is not finite"),
        *((["--program", program, "--features", str(tmp_path / f"{name}.npy")], "are no whole .npy file of float32")
          for name in ("double", "none", "cut", "head")),
    ]  # fmt: skip
    allowed = os.sched_getaffinity(0)
    for words, message in cases:
        problem = runner.call(words)
        os.sched_setaffinity(0, allowed)
        assert problem and message in problem and "\n" not in problem, (words, problem)


def test_the_host_in_c(exports, tmp_path, program):
    for name in ("compressed", "dense"):
        shutil.copytree(exports / name, tmp_path / name)
    status, text, error = program(main, "--compare", tmp_path / "compressed", tmp_path / "dense", "--engine", "cpp",
                                  "--seconds", 0.1)  # fmt: skip
    assert status == 0 and text.count("RTF = elapsed / audio") == 2, error
    result, dense = (json.loads((tmp_path / name / "rtf.json").read_text()) for name in ("compressed", "dense"))
    assert result["device"] == "host" and result["called_from"] == "C++" and result["calls"] == 1000
    assert result["parity"] < 1e-5 and "peak_rss_bytes" not in result and result["speed_up"] > 0
    expected = {"executorch xnnpack", "executorch dirnet", "torch"}
    expected |= {"onnxruntime"} if onnx_engine.available() else set()
    assert {row["engine"] for row in dense["engines"]} == expected


def test_other_logits_are_refused(exports, features):
    engine = program_engine(Program(exports / "compressed/encoder.pte"), 16, features[1])
    logits = engine.runner.stream(features[1], 16)
    assert runner.check(engine, logits + 3, "there") < 1e-5  # the same log posteriors
    for wrong, message in (
        (logits + 0.01 * torch.eye(70, 42), "in chunks of 16 differs by 0.0.* on there from this host, expected"),
        (logits * torch.nan, "differs by nan"),
        (logits[:-1], r"gave \[69, 42\] logits on there, \[70, 42\] on this host"),
    ):
        with pytest.raises(UserError, match=message):
            runner.check(engine, wrong, "there")


def test_turns_are_pooled(exports, features):
    engine = program_engine(Program(exports / "compressed/encoder.pte"), 16, features[1])
    expected = engine.runner.stream(features[1], 16).numpy()
    turns = []

    class Counting:
        name, local = "there", False

        def run(self, program, features, extra):
            turns.append(list(extra))
            us = [100.0 * len(turns)] * int(extra[extra.index("--calls") + 1])
            climate = {"khz": len(turns), "celsius": None}
            return {"call_us": us, "clock": "cpu", "wall_s": 1.0, "cores": [3], "before": climate, "after": climate,
                    "bytes": 1, "verification": "x", "load_ms": 2.0, "peak_rss_bytes": 3}, expected  # fmt: skip

    figures = runner.in_turns([engine], 1, 1, Counting())[id(engine)]
    assert len(turns) == 4 and turns[0] == ["--chunk", "16", "--calls", "250", "--threads", "1"]
    told = figures.to_mapping()
    assert told["calls"] == 1000 and told["us_per_call"]["p50"] == pytest.approx(250) and told["wall_s"] == 4
    assert told["before"]["khz"] == 1 and told["after"]["khz"] == 4 and told["cores"] == [3]


def test_an_executorch_without_headers_is_told(monkeypatch):
    monkeypatch.setattr(runner.importlib.metadata, "version", lambda name: "1.3.1")
    monkeypatch.setattr(runner, "_HEADER", "no.h")
    with pytest.raises(UserError, match="executorch 1.3.1 has no headers of its executor.*--engine python"):
        runner.build()


def test_mistakes_of_the_host(exports, tmp_path, program):
    model = ("--model", exports / "dense/encoder.pte")
    (tmp_path / "text").write_text("text")
    (tmp_path / "babble").write_text("#!/bin/sh\nprintf 'what \\377\\n' >&2; exit 2\n")
    for name in ("text", "babble"):
        (tmp_path / name).chmod(0o755)
    for words, message in (
        (("--runner", tmp_path / "no"), "is no program; build one with CMake"),
        (("--runner", tmp_path / "text"), "does not run here (Exec format error)"),
        (("--runner", tmp_path / "babble"), "what \ufffd"),
        (("--runner", "/bin/false"), "the runner ended with 1"),
        (("--runner", "/bin/true"), "the runner left no whole result"),
        (("--runner", "x", "--engine", "python"), "--runner goes with --engine cpp"),
        (("--device", "adb", "--engine", "python"), "--engine python is for --device host"),
    ):
        status, _, error = program(main, *model, *words)
        assert status == 2 and message in error, error


@pytest.mark.skipif(not EXECUTORCH, reason="DIRNET_EXECUTORCH does not name an ExecuTorch built for this machine")
def test_the_executable_by_cmake(exports, features, tmp_path):
    for command in (["-S", runner.SOURCES, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={EXECUTORCH}"],
                    ["--build", tmp_path / "build"]):  # fmt: skip
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    executable = tmp_path / "build/dirnet_runner"
    for model, chunk in (("compressed", 16), ("dense", 1)):
        program = Program(exports / model / "encoder.pte")
        with runner.Host(executable) as host:
            report, logits = host.run(program, features[1], ["--calls", "10"])
        assert np.abs(logits - program.stream(features[1], chunk).numpy()).max() < 1e-5
        assert report["peak_rss_bytes"] < 1e8
        content, generator = bytearray(program.content), random.Random(0)
        for _ in range(60):  # damaged programs are one line and status 2, or run
            damaged = bytearray(content)
            for _ in range(generator.choice((1, 8, 64))):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            (tmp_path / "damaged.pte").write_bytes(damaged[: generator.choice((None, None, len(damaged) // 2))])
            command = [executable, "--program", tmp_path / "damaged.pte", "--features", features[0], "--calls", "3"]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, errors="replace")
            assert ended.returncode == 0 or (ended.returncode == 2 and len(ended.stderr.splitlines()) == 1), ended


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize(
    "processor, paths",
    [
        ("x86_64", {"avx2", "avx512"}),
        ("aarch64", {"neon", "neon_dotprod"}),
        ("armv7-a", set()),
        ("riscv64", set()),
        ("i686", set()),  # without the 64-bit moves of the x86-64 kernels
    ],
)
def test_cmake_builds_the_kernels_of_the_processor(tmp_path, processor, paths):
    targets = ("executorch", "executorch_core", "xnnpack_backend", "extension_threadpool")
    (tmp_path / "executorch-config.cmake").write_text("".join(f"add_library({t} INTERFACE)\n" for t in targets))
    command = ["cmake", "-S", runner.SOURCES, "-B", tmp_path / "build", f"-Dexecutorch_DIR={tmp_path}",
               "-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={processor}",
               "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    built = {Path(unit["file"]).stem for unit in json.loads((tmp_path / "build/compile_commands.json").read_text())}
    assert {name for name in built if name.startswith("kernels_")} == {f"kernels_{path}" for path in paths | {"plain"}}
    assert {"kernels", "ops", "main"} <= built and "read" not in built


def test_the_library_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    log = tmp_path / "log"
    (tmp_path / "c++").write_text(f'#!/bin/sh\necho call >> {log}\nexec {library.find_compiler()} -Werror "$@"\n')
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    first = runner.build()
    calls = log.read_text().count("call")
    assert os.listdir(tmp_path / "dirnet") == [first.name]
    assert runner.build() == first and log.read_text().count("call") <= calls + 1  # its version is asked for
