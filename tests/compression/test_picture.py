import io

import torch
from torch import nn

import dirnet
from dirnet.compression.picture import CELLS, picture, shrunk


def test_cells_are_means_of_the_codes_and_the_most_used_atom_is_on_top():
    codes = torch.zeros(4, 8)
    codes[2, :4], codes[0, 7] = -3.0, 1.0
    assert shrunk(codes).tolist()[:2] == [[3, 3, 3, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]]
    assert shrunk(codes, (2, 2)).tolist() == [[1.5, 0.125], [0, 0]]
    assert shrunk(torch.ones(100, 1000)).shape == CELLS


def test_the_picture_is_a_picture_in_grey():
    import matplotlib.image

    for rnn, method in ((nn.LSTM(12, 16, 4), "dirnet"), (nn.GRU(12, 16), "prune"), (nn.LSTM(12, 16), "svd")):
        model, report = dirnet.compress(rnn, "2x", method, progress=False)
        pixels = matplotlib.image.imread(io.BytesIO(picture(model, report)))
        assert pixels.shape[1] == 1000 and pixels.shape[0] > 400
        assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
        assert 0.005 < (pixels[..., 0] < 0.5).mean() < 0.6
