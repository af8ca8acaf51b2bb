from __future__ import annotations

import os
from pathlib import Path

# Read once, when NumPy and TensorFlow are imported, here and in every process a test starts.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import pytest
from hypothesis import settings
from places import ROOT

# The first example of a property test pays for TensorFlow's import.
settings.register_profile("edgeprune", deadline=None, print_blob=True)
settings.load_profile("edgeprune")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and images beside the repository; a user's clone has none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real models and images at '{folder}'")
    return folder
