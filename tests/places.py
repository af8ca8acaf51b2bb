"""Where the repository lies, for tests that run its benchmarks and read its recipes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
