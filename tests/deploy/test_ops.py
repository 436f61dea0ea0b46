import itertools

import pytest
import torch
from torch import nn

from dirnet.deploy import library, ops
from dirnet.deploy.lowering import quiet
from dirnet.deploy.packing import pack, stored_matrix
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.tensors import to_tensors

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def coded_matrix(rows, columns, atoms, density, block, seed, dtype="float32"):
    torch.manual_seed(seed)
    width = columns // block
    blocks = None if density is None else max(1, int(density * (atoms or rows) * width))
    return CodedMatrix(rows, columns, atoms, blocks, block, dtype)


def whole(coded, bias=None):
    return stored_matrix(coded, 0, coded.columns, None if bias is None else bias.detach(), True)


@torch.no_grad()
@pytest.mark.parametrize("cell", ops.CELLS)
@pytest.mark.parametrize("atoms", [None, 6])
def test_rnn_layer_reference_equals_torch(cell, atoms):
    torch.manual_seed(0)
    size, frames = 11, 8
    rnn = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](5, size)
    inputs, coded = (coded_matrix(rows, GATES[cell] * size, atoms, None, 1, rows) for rows in (5, size))
    x, h0, c0 = torch.randn(frames, 5), torch.randn(1, size) * 0.5, torch.randn(1, size)
    rnn.weight_ih_l0.copy_(inputs.matrix().t())
    rnn.weight_hh_l0.copy_(coded.matrix().t())
    expected, last = rnn(x, (h0, c0) if cell == "lstm" else h0)
    read = h0 if atoms is None else h0 @ coded.dictionary
    weights = pack(whole(inputs, rnn.bias_ih_l0), whole(coded, rnn.bias_hh_l0))
    before, number = (c0 if cell == "lstm" else h0), ops.CELLS.index(cell)
    y, u, memory = ops.rnn_layer(x, read, before, weights, number, False)
    shared, *_ = ops.rnn_layer(x, read, before, weights, number, True)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(memory, last[1] if cell == "lstm" else last, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(u, y[-1:] if atoms is None else y[-1:] @ coded.dictionary, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(shared, y if atoms is None else y @ coded.dictionary, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("atoms, density", [(None, None), (None, 0.4), (9, None), (9, 0.4)])
def test_int8_products_are_those_of_rounded_activations(atoms, density):
    """Scales belong to atoms and rows, so one product of integers, scaled, is the product of what was rounded."""
    coded = coded_matrix(30, 16, atoms, density, 2, 0, "int8")
    x, matrix = torch.randn(7, 30), whole(coded)

    def rounded(values):
        step = values.abs().amax(dim=1, keepdim=True) / 127
        return (values / step).round() * step

    if atoms is None:
        row_scales = to_tensors(coded)["code_scales"].float()
        expected = rounded(x * row_scales) @ (coded.code_matrix() / row_scales[:, None])
    else:
        row_scales = to_tensors(coded)["code_scales"].float()
        u = (rounded(x) @ coded.dictionary_values()) * row_scales
        torch.testing.assert_close(ops.read(matrix, x), u, atol=1e-6, rtol=1e-5)
        expected = rounded(u) @ (coded.code_matrix() / row_scales[:, None])
    found = ops.write(matrix, ops.read(matrix, x))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    exact = x @ coded.matrix()
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.02


class Everything(nn.Module):
    """Cells, layouts, types, block sizes and odd sizes, one call each (kernels_test.cpp has all combinations)."""

    def __init__(self):
        super().__init__()
        grid = itertools.product([(16, 16), (24, 8), (36, 4), (10, 2), (7, 1)], [None, 5, 21], ["float32", "int8"])
        cases = [(k // 2 % 3, *case, 0.3 if k % 5 else None) for k, case in enumerate(grid)]
        # Several runs of rows, also of codes too few for a mask.
        cases += [(0, (80, 8), 300, "float32", 0.1), (1, (300, 1), None, "int8", 0.03)]
        cases += [(2, (528, 16), None, "float32", 0.1), (0, (40, 8), 600, "int8", 0.1)]
        cases += [(2, (520, 1), None, "float32", 0.03), (1, (48, 16), 270, "int8", 0.1)]
        self.shapes = []
        for seed, (cell, (size, block), atoms, dtype, density) in enumerate(cases):
            columns = GATES[ops.CELLS[cell]] * size
            coded = coded_matrix(size, columns, atoms, density, block, seed, dtype)
            inputs = coded_matrix(13, columns, atoms, density, block, seed, dtype)
            bias = torch.randn(columns) if seed % 3 else None
            self.register_buffer(f"weights{seed}", pack(whole(inputs, bias), whole(coded, bias)))
            self.shapes.append((cell, size, coded.code_rows, bool(seed % 2), dtype))

    def states(self):
        torch.manual_seed(5)
        return [torch.randn(1, size) * 0.5 for _, n, p, *_ in self.shapes for size in (p, n)]

    def forward(self, features, *states):
        x = torch.ops.dirnet.splice(features, torch.full((1,), 0.5), torch.full((1,), 2.0), 6, 2)
        results = [x]
        for k, (cell, _, _, coded, _) in enumerate(self.shapes):
            weights = getattr(self, f"weights{k}")
            results += torch.ops.dirnet.rnn_layer(x, states[2 * k], states[2 * k + 1], weights, cell, coded)
        return tuple(results)


@torch.no_grad()
def test_kernels_in_the_runtime_equal_the_reference():
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib

    library.load()
    module = Everything()
    states = module.states()
    length = 2 * torch.export.Dim("T", min=1, max=64) + 12
    shapes = ({0: length}, tuple(None for _ in states))
    with quiet():
        exported = torch.export.export(module, (torch.randn(44, 1), *states), dynamic_shapes=shapes, strict=False)
        content = to_edge_transform_and_lower(exported).to_executorch().buffer
    method = portable_lib._load_for_executorch_from_buffer(content)
    for frames in (1, 7, 64):
        features = torch.randn(2 * frames + 12, 1)
        found = method.forward([features, *states])
        expected = module(features, *states)
        assert len(found) == len(expected)
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            case = module.shapes[(number - 1) // 3] if number else ("splice",)
            limit = 1e-3 if case[-1] == "int8" else 3e-5  # a byte may fall to the other side of a half
            torch.testing.assert_close(a, b, atol=limit, rtol=1e-4, msg=lambda text, case=case: f"{case}: {text}")
    with pytest.raises(RuntimeError):
        method.forward([torch.randn(2 * 65 + 12, 1), *states])  # beyond the bound
