import dataclasses
import json
import re
import shutil

import pytest
import torch

from dirnet.deploy import library, parity
from dirnet.deploy.export import build, check, constants, export, main
from dirnet.deploy.program import Program
from dirnet.deploy.streaming import KernelModel
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


@pytest.mark.parametrize("options", [{"block": 8}, {"atoms": None}, {"density": None}], ids=str)
def test_an_int8_program_computes_with_int8(model_of, options, tmp_path, program):
    model = model_of(dtype="int8", **options)
    storage.save(model, tmp_path)
    status, output, _ = program(main, "--model", tmp_path)
    report = json.loads((tmp_path / "encoder.json").read_text())
    assert status == 0 and "of these int8 weights" in output and "divergence from torch" in output
    assert report["dtype"] == "int8" and Program(tmp_path / "encoder.pte").dtype == "int8"
    assert 0 <= report["weight_bytes"] - report["stored_bytes"] < 4000
    assert 0 < report["parity"]["noise"] < 1e-3 and report["parity"]["streaming"] < 1e-5


def test_an_int8_model_of_stock_operators_is_int8(model_of, tmp_path):
    """XNNPACK has a scale per row of its own; the model's parameters, as training leaves them, are not what counts."""
    model = model_of(dtype="int8", block=8)
    storage.save(model, tmp_path)
    report = export(tmp_path, tmp_path / "encoder.pte", "xnnpack", 2)
    floats = sum(group.code_matrix().numel() + group.dictionary.numel() for group in model.rnn.groups)
    assert report["dtype"] == "int8" and report["delegated"] == 1.0
    assert floats < report["weight_bytes"] < 2 * floats
    assert all(0 < value < 1e-3 for value in report["parity"].values())


def test_the_report_beside_a_program(exports):
    for name, backend in (("compressed", "dirnet"), ("dense", "xnnpack")):
        report = json.loads((exports / name / "encoder.json").read_text())
        size = (exports / name / "encoder.pte").stat().st_size
        assert report["bytes"] == size and report["backend"] == backend
        assert 0 < size - report["weight_bytes"] < 16000  # the graph and the metadata
        assert report["parity"].keys() == {"noise", "speech_like", "streaming"}
        assert max(report["parity"].values()) < 1e-5
    assert set(report["operators"]) >= {"XnnpackBackend: aten.linear"} and report["delegated"] == 1.0
    compressed = json.loads((exports / "compressed/encoder.json").read_text())
    assert compressed["operators"] == {"XnnpackBackend: aten.linear": 1, "dirnet.rnn_layer": 2, "dirnet.splice": 1}


@pytest.mark.parametrize(
    "rnn_type, backend, chunk, options",
    [
        ("gru", "dirnet", 5, {"atoms": None, "block": 4, "frame_stride": 3}),
        ("rnn", "dirnet", 64, {"dense": True}),
        ("gru", "xnnpack", 2, {"density": None, "frame_stride": 2}),
    ],
)
def test_other_cells_strides_and_layouts(model_of, rnn_type, backend, chunk, options):
    lowered, parity = build(model_of(rnn_type, **options), backend, chunk)
    assert max(parity.values()) < 1e-5
    assert lowered.content[4:6] == b"ET"


@pytest.mark.parametrize("backend", ["dirnet", "xnnpack"])
@pytest.mark.parametrize("shifts", [{"shifts": 1}, {"shifts": 2, "shift_kind": "zero", "block": 4}], ids=str)
def test_shifted_atoms(model_of, backend, shifts):
    model = model_of(atoms=6, **shifts)
    generator = torch.Generator().manual_seed(0)
    for group in model.rnn.groups:
        reach = group.shifts.reach
        group.offsets.copy_(torch.randint(-reach, reach + 1, group.offsets.shape, generator=generator))
    assert max(build(model, backend, 2)[1].values()) < 1e-5


@pytest.mark.parametrize("rnn_type, backend", [("lstm", "dirnet"), ("gru", "xnnpack"), ("rnn", "dirnet")])
def test_a_single_layer_that_shares_its_dictionary(rnn_type, backend):
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[rnn_type]
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type, 30, 1, tuple("-abc"), feature_size=6, context=2, num_outputs=4, block=2, input_group="shared",
        compression=([8, 40 * gates],), shifts=1, mfcc={"num_ceps": 6},
    )  # fmt: skip
    model = AcousticModel(config).eval()
    model.rnn.groups[0].offsets.random_(-1, 2)
    assert max(build(model, backend, 3)[1].values()) < 1e-5


def test_a_program_of_other_weights_is_refused(exports, model_of):
    program = Program(exports / "compressed/encoder.pte")
    model = model_of(block=8)
    assert max(check(model, program).values()) < 1e-5
    with torch.no_grad():
        model.rnn.groups[1].codes[3] += 0.05
    with pytest.raises(UserError, match="parity of compressed on noise features is .*nothing was written"):
        check(model, program)
    with torch.no_grad():
        model.rnn.groups[1].codes[3] = float("nan")
    with pytest.raises(UserError, match="features is nan"):
        check(model, program)


@pytest.mark.parametrize("name", ["P 1", "P\u00a01", "\u3000", ""])
def test_a_blank_in_the_name_of_an_output_is_told(model_of, name):
    """The program tells the names by blanks: there would be more or fewer of them than outputs."""
    model = model_of(hidden=8, layers=1)
    named = AcousticModel(dataclasses.replace(model.config, phones=(*model.config.phones[:-1], name)))
    with pytest.raises(UserError, match=re.escape(f"output 41 is called {name!r}, expected a name without blanks")):
        constants(named, KernelModel(named), 16, "")


def test_outputs_of_one_name_are_told(model_of):
    model = model_of(hidden=8, layers=1)
    named = AcousticModel(dataclasses.replace(model.config, phones=(*model.config.phones[:-1], model.config.phones[3])))
    with pytest.raises(UserError, match=f"outputs 3 and 41 are both called '{model.config.phones[3]}'; rename one"):
        constants(named, KernelModel(named), 16, "")


def test_nothing_is_written_without_parity(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match="parity"):
        export(exports / "compressed", tmp_path / "encoder.pte")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_has_nothing_to_do(exports, program):
    out = exports / "compressed/encoder.pte"
    before = out.stat().st_mtime_ns
    status, text, _ = program(main, "--model", exports / "compressed")
    assert status == 0 and "nothing to do" in text and out.stat().st_mtime_ns == before


def test_another_description_of_the_same_weights_is_exported_again(exports, tmp_path, program):
    """CMVN and the settings of the features stand in the program, but not among the weights."""
    folder = shutil.copytree(exports / "compressed", tmp_path / "model")
    description = json.loads((folder / storage.DESCRIPTION).read_text())
    description["config"]["mfcc"]["num_mel_bins"] = 40
    description["config_sha256"] = storage.config_sha256(description["config"])
    (folder / storage.DESCRIPTION).write_text(json.dumps(description))
    status, text, _ = program(main, "--model", folder)
    assert status == 0 and "nothing to do" not in text
    assert json.loads(Program(folder / "encoder.pte").mfcc) == {"num_ceps": 26, "num_mel_bins": 40}


def test_a_run_tells_operators_size_and_parity(exports, tmp_path, program):
    status, text, _ = program(main, "--model", exports / "compressed", "--out", tmp_path / "a.pte", "--chunk", 4)
    assert status == 0
    assert "operators: 4 = 3 dirnet + 1 delegated + 0 portable" in text and "parity with torch" in text
    assert Program(tmp_path / "a.pte").chunk == 4


def test_mistakes_are_one_line(exports, tmp_path, program, monkeypatch):
    out = tmp_path / "encoder.pte"
    for chunk in (0, 65):
        status, _, error = program(main, "--model", exports / "compressed", "--out", out, "--chunk", chunk)
        assert status == 2 and f"chunk is {chunk}, expected 1..64" in error
    status, _, error = program(main, "--model", exports / "compressed", "--out", tmp_path)
    assert status == 2 and f"--out {tmp_path} is a folder" in error and not list(tmp_path.parent.glob("*.json"))
    status, _, error = program(main, "--model", exports / "compressed", "--out", ".")
    assert status == 2 and "--out . is a folder" in error
    status, _, error = program(main, "--model", exports / "compressed", "--out", tmp_path / "a.json")
    assert status == 2 and "a.json is where the report goes" in error and not (tmp_path / "a.json").exists()
    copied = shutil.copytree(exports / "compressed", tmp_path / "copied")
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    for name in ("model.pte", storage.WEIGHTS):
        status, _, error = program(main, "--model", copied, "--out", copied / name)
        assert status == 2 and f"{name} puts its report where a model has its model.json" in error
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    status, _, error = program(main, "--model", tmp_path / "none", "--out", out)
    assert status == 2 and "does not exist" in error
    storage_file = exports / "compressed" / storage.WEIGHTS
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / storage.WEIGHTS).write_bytes(storage_file.read_bytes()[:-5])
    (broken / storage.DESCRIPTION).write_bytes((exports / "compressed" / storage.DESCRIPTION).read_bytes())
    status, _, error = program(main, "--model", broken, "--out", out)
    assert status == 2 and "truncated" in error

    def no_compiler():
        raise UserError("no C++ compiler: g++ and clang++ not found on PATH")

    monkeypatch.setattr(library, "load", no_compiler)
    status, _, error = program(main, "--model", exports / "compressed", "--out", out)
    assert status == 2 and "no C++ compiler" in error and error.count("\n") == 1
    assert not out.exists()
