"""Every test and every example in a docstring starts from the same random numbers."""

from __future__ import annotations

import random
import sys

import pytest


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_test() -> None:
    """Seed all that draws, where it is imported."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
