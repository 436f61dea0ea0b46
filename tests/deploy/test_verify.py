"""`dirnet verify`: sound programs pass, 500 damaged ones are told in one line, a crash of ExecuTorch too."""

from __future__ import annotations

import hashlib
import json
import random
import shutil

import pytest
import torch

from dirnet.deploy import certificate, flatbuffer, structure
from dirnet.deploy.verify import check_files, check_outputs, main, verify
from dirnet.errors import UserError


@pytest.fixture
def copied(exports, tmp_path):
    """A copy of an exported program with its .json: `copied(name) -> path`."""

    def make(name="compressed"):
        for suffix in (".pte", ".json"):
            shutil.copy(exports / name / f"encoder{suffix}", tmp_path / f"{name}{suffix}")
        return tmp_path / f"{name}.pte"

    return make


def vouch(path, **changes):
    """Make the .json beside `path` agree with its content, as somebody would who trusts it."""
    report = certificate.read(path.with_suffix(".json"))
    report |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | changes
    path.with_suffix(".json").write_text(certificate.seal(report))


def test_sound_programs_are_told_in_a_line_each(program, copied):
    paths = [copied("compressed"), copied("dense")]
    status, shown, errors = program(main, *paths)
    lines = shown.splitlines()
    assert (status, errors, len(lines)) == (0, "", 2)
    for path, line, backend in zip(paths, lines, ("dirnet", "xnnpack"), strict=True):
        assert line.startswith(f"{path} is sound: {path.stat().st_size} bytes, backend {backend}, ")
        assert "of the reference (limit 0.0001)" in line


def mutate(content: bytes, draw: random.Random) -> bytes:
    """`content` with a bit flipped, cut short, with bytes inserted, or with two pieces swapped."""
    kind, at = draw.choice(["flip", "cut", "insert", "swap"]), draw.randrange(len(content))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + draw.randbytes(draw.choice([1, 4, 1000])) + content[at:]
    a, b = sorted((at, draw.randrange(len(content))))
    size = draw.choice([1, 16, 512])
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


@pytest.mark.parametrize("suffix", [".pte", ".json"])
def test_250_mutations_of_each_file_are_told(copied, suffix):
    path = copied()
    target = path.with_suffix(suffix)
    content = target.read_bytes()
    done = 0
    for seed in range(300):
        mutated = mutate(content, random.Random(seed))
        if mutated == content or done == 250:
            continue
        done += 1
        target.write_bytes(mutated)
        with pytest.raises(UserError) as told:
            verify([path])
        assert "\n" not in str(told.value) and "compressed." in str(told.value)
    assert done == 250


def test_damage_behind_a_right_sha256(copied):
    """The weights and the constants: nothing but the outputs and the sense of the constants can tell."""
    path = copied()
    content = path.read_bytes()
    told = []
    for at, size in ((content.index(b"sample_rate"), 1), (len(content) // 2, 400)):
        path.write_bytes(content[:at] + bytes(byte ^ 3 for byte in content[at : at + size]) + content[at + size :])
        vouch(path)
        check_files(path)
        with pytest.raises(UserError) as error:
            check_outputs(path)
        told.append(str(error.value))
    assert "does not tell its sample_rate" in told[0] and "differs by" in told[1]


def another_type(content: bytes) -> bytes:
    """The integers of `forward` called floating-point numbers, which the operators are not prepared for."""
    places = []

    class Finder(flatbuffer._Reader):
        def _union(self, union, kind_at, at, where):
            if where.startswith("Program.execution_plan[0].values") and content[kind_at] == 2:
                places.append(kind_at)
            return super()._union(union, kind_at, at, where)

    finder = Finder(content, structure._schema())
    finder.table("Program", finder.follow(0, "Program"), "Program")
    damaged = bytearray(content)
    for place in places:
        damaged[place] = 4
    assert places and structure._schema().unions["KernelTypes"][1:4:2] == ["Int", "Double"]
    return bytes(damaged)


def test_a_program_that_aborts_the_process_is_told(program, copied):
    good, path = copied("dense"), copied("compressed")
    path.write_bytes(another_type(path.read_bytes()))
    vouch(path)
    status, shown, errors = program(main, good, path)
    assert (status, shown) == (2, "") and errors.count("\n") == 1
    assert f"{path} makes ExecuTorch fail (SIGABRT): damaged or foreign; export it again" in errors


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compressed", "dense"])
@pytest.mark.parametrize("seed", range(2))
def test_mutations_with_a_recomputed_sha256_never_pass_or_crash(copied, name, seed):
    """Behind the structure, in weights and delegates, where only ExecuTorch itself can tell."""
    path = copied(name)
    draw, content = random.Random(seed), bytearray(path.read_bytes())
    segments = int.from_bytes(content[24:32], "little")
    for _ in range(200):
        content[draw.randrange(segments, len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    vouch(path)
    check_files(path)
    with pytest.raises(UserError) as told:
        verify([path])
    assert "\n" not in str(told.value) and str(path) in str(told.value)


def test_no_end_is_told(copied, monkeypatch):
    monkeypatch.setattr("dirnet.deploy.verify.LIMIT_S", 0.01)
    with pytest.raises(UserError, match="compressed.pte makes ExecuTorch fail .no end within 0.01 s"):
        verify([copied()])


def test_operators_that_this_executorch_lacks(copied):
    path = copied()
    path.write_bytes(path.read_bytes().replace(b"dirnet::splice", b"dirnet::sqlice"))
    vouch(path)
    with pytest.raises(UserError, match="calls dirnet::sqlice.out, unknown to this ExecuTorch; export it again"):
        check_outputs(path)


def test_older_and_foreign_files(program, copied, tmp_path):
    from executorch.exir import to_edge_transform_and_lower

    path = copied()
    report = certificate.read(path.with_suffix(".json"))
    cases = {}
    plain = {name: value for name, value in report.items() if name not in ("seal", "reference")}
    for name, text in (("unsealed", json.dumps(plain)), ("unreferenced", certificate.seal(plain))):
        cases[name] = (tmp_path / f"{name}.pte", "export the model again")
        shutil.copy(path, cases[name][0])
        cases[name][0].with_suffix(".json").write_text(text)
    foreign = to_edge_transform_and_lower(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))).to_executorch()
    for name, content in (("relu", foreign.buffer), ("text", b"hello\n"), ("empty", b"")):
        target = tmp_path / f"{name}.pte"
        target.write_bytes(content)
        shutil.copy(path.with_suffix(".json"), target.with_suffix(".json"))
        vouch(target)
        cases[name] = (target, "was not written by dirnet" if name == "relu" else "is not an ExecuTorch program")
    for target, message in cases.values():
        with pytest.raises(UserError, match=message):
            check_files(target)
            check_outputs(target)
    status, _, errors = program(main, tmp_path / "none.pte")
    assert status == 2 and "none.pte is not there" in errors and errors.count("\n") == 1
    (tmp_path / "relu.json").unlink()
    status, _, errors = program(main, path, tmp_path / "relu.pte")
    assert status == 2 and "relu.json with the sha256 of relu.pte is not there" in errors
