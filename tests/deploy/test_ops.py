import itertools

import pytest
import torch
from torch import nn

from dirnet.deploy import library, ops
from dirnet.deploy.lowering import quiet
from dirnet.deploy.streaming import KernelMatrix
from dirnet.nn.coded import CodedMatrix

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def coded_matrix(rows, columns, atoms, density, block, seed):
    torch.manual_seed(seed)
    width = columns // block
    blocks = None if density is None else max(1, int(density * (atoms or rows) * width))
    return CodedMatrix(rows, columns, atoms, blocks, block)


@pytest.mark.parametrize("columns", [1, 7, 16, 31, 48, 79])
def test_panels_keep_every_value_and_unpack_again(columns):
    matrix = torch.randn(5, columns)
    stored = ops.panels(matrix)
    assert stored.numel() == matrix.numel()
    assert torch.equal(ops.unpack(stored, None, None, 0, 5), matrix)


@pytest.mark.parametrize("block", ops.BLOCKS)
def test_unpack_is_the_inverse_of_the_storage_order(block):
    coded = coded_matrix(9, 48, 5, 0.4, block, 0)
    packed = coded.packed()
    found = ops.unpack(packed["codes"].reshape(-1), packed["rows"], packed["counts"], block, 5)
    assert torch.equal(found, coded.code_matrix())


@pytest.mark.parametrize("cell", ops.CELLS)
@pytest.mark.parametrize("atoms", [None, 6])
def test_rnn_layer_reference_equals_torch(cell, atoms):
    torch.manual_seed(0)
    size, frames = 11, 8
    rnn = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](5, size)
    coded = coded_matrix(size, GATES[cell] * size, atoms, None, 1, 1)
    x, h0, c0 = torch.randn(frames, 5), torch.randn(1, size) * 0.5, torch.randn(1, size)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(coded.matrix().t())
        expected, last = rnn(x, (h0, c0) if cell == "lstm" else h0)
        gates = nn.functional.linear(x, rnn.weight_ih_l0, rnn.bias_ih_l0)
        read = h0 if atoms is None else h0 @ coded.dictionary
        matrix = KernelMatrix(coded, 0, coded.columns, rnn.bias_hh_l0, True)
        memory = c0 if cell == "lstm" else h0
        y, u, memory = ops.rnn_layer(gates, read, memory, *matrix.operands(), ops.CELLS.index(cell), False)
        shared, *_ = ops.rnn_layer(gates, read, c0 if cell == "lstm" else h0, *matrix.operands(),
                                   ops.CELLS.index(cell), True)  # fmt: skip
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(memory, last[1] if cell == "lstm" else last, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(u, y[-1:] if atoms is None else y[-1:] @ coded.dictionary, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(shared, y if atoms is None else y @ coded.dictionary, atol=1e-6, rtol=1e-5)


class Everything(nn.Module):
    """Cells, layouts, block sizes and odd sizes, one operator call each (kernels_test.cpp has all combinations)."""

    def __init__(self):
        super().__init__()
        grid = itertools.product([(16, 16), (24, 8), (36, 4), (10, 2), (7, 1)], [None, 5, 21])
        cases = [(k % 3, size, atoms, 0.3 if k % 5 else None, block) for k, ((size, block), atoms) in enumerate(grid)]
        cases += [(0, 80, 300, 0.1, 8), (1, 300, None, 0.1, 1)]  # rows beyond a byte
        self.shapes, layers, inputs = [], [], []
        for seed, (cell, size, atoms, density, block) in enumerate(cases):
            coded = coded_matrix(size, GATES[ops.CELLS[cell]] * size, atoms, density, block, seed)
            bias = torch.randn(coded.columns) if seed % 3 else None
            layers.append(KernelMatrix(coded, 0, coded.columns, bias, True))
            inputs.append(KernelMatrix(coded_matrix(13, coded.columns, atoms, density, block, seed), 0, coded.columns,
                                       bias, True))  # fmt: skip
            self.shapes.append((cell, size, coded.code_rows, bool(seed % 2)))
        self.layers, self.inputs = nn.ModuleList(layers), nn.ModuleList(inputs)
        self.requires_grad_(False)

    def states(self):
        torch.manual_seed(5)
        return [torch.randn(1, size) * 0.5 for _, n, p, _ in self.shapes for size in (p, n)]

    def forward(self, features, *states):
        x = torch.ops.dirnet.splice(features, torch.full((1,), 0.5), torch.full((1,), 2.0), 6, 2)
        results = [x]
        for k, (cell, _, _, coded) in enumerate(self.shapes):
            gates = self.inputs[k](x)
            operands = self.layers[k].operands()
            results += torch.ops.dirnet.rnn_layer(gates, states[2 * k], states[2 * k + 1], *operands, cell, coded)
        return tuple(results)


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
            case = module.shapes[(number - 1) // 3] if number else "splice"
            torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-4, msg=lambda text, case=case: f"{case}: {text}")
    with pytest.raises(RuntimeError):
        method.forward([torch.randn(2 * 65 + 12, 1), *states])  # beyond the bound
