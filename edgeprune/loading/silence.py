"""Quiet while a file is opened: remarks of Keras and TensorFlow about themselves, nothing else."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from edgeprune.support.standard_error import captured_stderr

_LOGGERS = ("absl", "tensorflow", "tf_keras")
_MODULES = r"(keras|tf_keras|tensorflow|absl|h5py|google)(\.|$)"


@contextlib.contextmanager
def quiet_frameworks() -> Iterator[None]:
    """Hold back what Keras and TensorFlow log and warn; warnings of other code still appear."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with captured_stderr(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=_MODULES)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
