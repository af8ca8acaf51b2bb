from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

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

# A shell starts what runs in the background with Ctrl-C ignored, and every process it starts
# inherits that: the tests that send it would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture(scope="module")
def channels_first() -> Iterator[None]:
    """Run channels_first convolutions where TensorFlow has no kernels for them, by turning maps.

    Its own are those of oneDNN, which it does not use on every CPU.
    """
    import keras

    from edgeprune.tracing.keras_internals import backend

    def turning(convolve: Any) -> Any:
        signature = inspect.signature(convolve)

        @wraps(convolve)
        def turned(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if given.get("data_format") != "channels_first":
                return convolve(**given)
            given |= {"inputs": keras.ops.moveaxis(given["inputs"], 1, -1)}
            return keras.ops.moveaxis(convolve(**given | {"data_format": "channels_last"}), -1, 1)

        return turned

    try:
        keras.layers.Conv2D(1, 2, data_format="channels_first")(keras.ops.ones((1, 1, 2, 2)))
        names: tuple[str, ...] = ()
    except Exception:  # whatever a backend says that has no such kernel
        names = ("conv", "conv_transpose", "depthwise_conv", "separable_conv")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(backend.nn, name, turning(getattr(backend.nn, name)))
        yield


@pytest.fixture(scope="module")
def one_legacy_process() -> Iterator[None]:
    """All old files of a module are opened beside one process with tf_keras."""
    from fuzzing.corrupted_files import share_legacy_process

    from edgeprune.loading import models

    before = models.LegacyProcess
    share_legacy_process()
    yield
    models.LegacyProcess = before
