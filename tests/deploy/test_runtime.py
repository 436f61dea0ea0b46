"""What native libraries say is kept off the terminal, and nothing else."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from dirnet.deploy.runtime import muted


def remark():
    os.write(2, b"a native remark\n")
    print("a remark of Python", file=sys.stderr)


def test_remarks_are_told_only_where_the_block_fails(capfd):
    with muted():
        remark()
    assert capfd.readouterr().err == ""
    with pytest.raises(KeyError), muted():
        remark()
        raise KeyError
    assert capfd.readouterr().err == "a native remark\na remark of Python\n"


def test_a_logger_that_is_made_in_the_block_speaks_after_it(capfd):
    with muted():
        handler = logging.StreamHandler()
    handler.handle(logging.makeLogRecord({"msg": "a warning"}))
    assert capfd.readouterr().err == "a warning\n"
    with muted():
        handler.handle(logging.makeLogRecord({"msg": "another one"}))
    assert capfd.readouterr().err == ""
