from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.support.standard_error import captured_stderr

ROOT = Path(__file__).resolve().parent.parent


def run_in_checkout(script) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_what_c_writes_is_captured_and_what_python_shows_stays_visible() -> None:
    script = """
import os, sys
from edgeprune.support.standard_error import captured_stderr
print("before", file=sys.stderr)
with captured_stderr() as captured:
    os.write(2, b"noise")
    print("progress bar", file=sys.stderr)
    assert captured() == "noise"
print("after", file=sys.stderr)
os.write(2, b"warning")
"""
    done = run_in_checkout(script)
    assert (done.returncode, done.stderr) == (0, "before\nprogress bar\nafter\nwarning")


def test_a_log_handler_made_meanwhile_stays_usable() -> None:
    script = """
import logging
from edgeprune.support.standard_error import captured_stderr
with captured_stderr():
    logging.basicConfig()
    logging.warning("during")
logging.warning("after")
"""
    done = run_in_checkout(script)
    assert done.stderr == "WARNING:root:during\nWARNING:root:after\n"


def test_descriptor_and_stream_come_back_after_an_error(capfd) -> None:
    stream = sys.stderr
    with pytest.raises(KeyError), captured_stderr():
        os.write(2, b"lost")
        raise KeyError
    os.write(2, b"seen")
    assert sys.stderr is stream
    assert capfd.readouterr().err == "seen"


def test_a_process_without_standard_error_goes_on() -> None:
    script = """
import os
os.close(2)
from edgeprune.support.standard_error import captured_stderr
with captured_stderr() as captured:
    print(repr(captured()))
"""
    done = run_in_checkout(script)
    assert (done.returncode, done.stdout) == (0, "''\n")
