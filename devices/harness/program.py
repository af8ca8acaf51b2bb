"""This program again, in a process of its own."""

from __future__ import annotations

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))


def repeat_command() -> list[str]:
    """Return the command that starts the harness as it was started, without its arguments."""
    flags = ["-I"] if sys.flags.isolated else ["-E"] if sys.flags.ignore_environment else []
    return [sys.executable, *flags, FOLDER]
