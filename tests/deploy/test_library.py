import os
import stat

import pytest

from dirnet.deploy import library
from dirnet.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/dirnet"


def test_a_missing_compiler_names_the_way_out(cache, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"no C\+\+ compiler.*install g\+\+.*--backend xnnpack"):
        library.build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler not found"):
        library.build()


def test_a_failing_compiler_is_one_line_and_leaves_nothing(cache, tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'note: old'; echo 'ops.cpp:1: error: no C++17 here' >&2; exit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(UserError, match="no C\\+\\+17 here; set CXX"):
        library.build()
    assert list(cache.iterdir()) == []


def test_the_library_is_built_once_without_warnings(cache, tmp_path, monkeypatch):
    real = library.find_compiler()
    compiler, log = tmp_path / "c++", tmp_path / "log"
    compiler.write_text(f'#!/bin/sh\necho call >> {log}\nexec {real} -Werror "$@"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    first = library.build()
    calls = log.read_text().count("call")
    assert first.parent == cache and os.listdir(cache) == [first.name]
    assert library.build() == first and log.read_text().count("call") == calls
    monkeypatch.setattr(library, "FLAGS", ("-std=c++17", "-O0", "-fPIC", "-shared"))
    assert library.build() != first


def test_loading_twice_is_harmless():
    library.load()
    library.load()
