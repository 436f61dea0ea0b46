"""Looks follow the method, and no two methods look alike, on paper either."""

from __future__ import annotations

from dirnet.report.palette import Palette

METHODS = [f"method{place}" for place in range(40)]


def test_ten_methods_have_ten_colours_and_more_still_differ_in_black_and_white():
    palette = Palette({name: name for name in METHODS})
    looks = [palette.method(name) for name in METHODS]
    assert len({look.color for look in looks[:10]}) == 10
    assert len({(look.marker, look.line) for look in looks}) == 40  # curves without colour
    assert len({look.hatch for look in looks[:11]}) == 11 and len({(look.color, look.hatch) for look in looks}) == 40


def test_the_sizes_of_a_method_share_colour_marker_hatch_and_line():
    palette = Palette({"smbr": "smbr", "svd_4x": "svd", "dirnet_4x": "dirnet", "svd_8x": "svd"})
    first, second = palette.model("svd_4x"), palette.model("svd_8x")
    assert first == palette.method("svd") and first[:4] == second[:4]
    assert first.bar()["color"] < second.bar()["color"]  # paler
    assert (first.curve()["fillstyle"], second.curve()["fillstyle"]) == ("full", "none")


def test_what_no_model_has_comes_after_them():
    palette = Palette({"smbr": "smbr", "svd_4x": "svd"})
    assert palette.method("ctc") not in (palette.method("smbr"), palette.method("svd"))
    assert palette.method("svd") == Palette({"smbr": "smbr", "svd_4x": "svd"}).method("svd")
