"""What a recipe asks for, checked before any training."""

from __future__ import annotations

import pytest

from dirnet.compression import request


@pytest.mark.parametrize(
    ("methods", "sizes", "status", "message"),
    [
        ("dirnet_b8  svd", "7.9x 2MB", 0, ""),
        ("", "", 0, ""),
        ("svd sdv", "7.9x", 2, "method 'sdv' is unknown"),
        ("svd", "7.9x 0.5x", 2, "size '0.5x' would grow the model"),
        ("svd", "", 2, "no size is given"),
        ("whole svd", "1x 2MB", 0, ""),
        ("svd whole", "1x 7.9x", 2, "method whole keeps every value, size 7.9x is out of reach; run it with 1x"),
    ],
)
def test_requests(tmp_path, capsys, methods, sizes, status, message):
    config = tmp_path / "compress.yaml"
    config.write_text("svd: {solver: svd}\ndirnet_b8: {solver: dirnet, block: 8}\nwhole: {solver: dense}\n")
    with pytest.raises(SystemExit) as ended:
        request.main(["--config", str(config), "--methods", methods, "--sizes", sizes])
    error = capsys.readouterr().err
    assert ended.value.code == status and message in error and len(error.splitlines()) == bool(message)
