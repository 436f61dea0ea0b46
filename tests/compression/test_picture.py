import io

import torch
from torch import nn

import dirnet
from dirnet.compression.picture import CELLS, TYPE, drawn, picture, thumbnail


def test_cells_are_means_of_the_codes_and_the_most_used_atom_is_on_top():
    codes = torch.zeros(4, 8)
    codes[2, :4], codes[0, 7] = -3.0, 1.0
    assert thumbnail(codes).tolist()[:2] == [[3, 3, 3, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]]
    assert thumbnail(codes, (2, 2)).tolist() == [[1.5, 0.125], [0, 0]]
    assert thumbnail(torch.ones(100, 1000)).shape == CELLS


def test_the_picture_is_a_picture_in_grey():
    import matplotlib.image

    for rnn, method in ((nn.LSTM(12, 16, 4), "dirnet"), (nn.GRU(12, 16), "prune"), (nn.LSTM(12, 16), "svd")):
        model, report = dirnet.compress(rnn, "2x", method, progress=False)
        pixels = matplotlib.image.imread(io.BytesIO(picture(model, report)))
        assert pixels.shape[1] == 1000 and pixels.shape[0] > 400
        assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
        assert 0.005 < (pixels[..., 0] < 0.5).mean() < 0.6


def test_every_panel_says_what_it_shows_in_type_that_can_be_read():
    from matplotlib.text import Text

    figure = drawn(*dirnet.compress(nn.LSTM(12, 16, 2), "2x", "dirnet", progress=False))
    maps, bars = figure.axes[:3], figure.axes[3:]
    assert [panel.get_ylabel() for panel in bars] == [
        "atoms p in the dictionary", "density of Z, % not zero", "relative error (0 to 1)", "size with indices, kB"
    ]  # fmt: skip
    assert all(panel.get_xlabel() == "group of matrices" for panel in bars)
    assert all("|Z|" in panel.get_title() for panel in maps)
    told = [text for text in figure.findobj(Text) if text.get_text()]
    assert any("a cell is the mean |Z| of the codes in it" in text.get_text() for text in told)
    assert min(text.get_fontsize() for text in told) >= TYPE
