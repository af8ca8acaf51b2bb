"""The parts of Keras that it does not publish: no other module names them.

Keras offers no public way to walk a functional graph, and its operations have no public classes.
Everything here is in each Keras that setup.py allows; what only some have is found by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras.src.legacy.layers  # noqa: F401  # older ones know ThresholdedReLU only after this
from keras.src import backend
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional
from keras.src.ops import core as core_operations
from keras.src.ops import nn as network_operations
from keras.src.ops import numpy as array_operations
from keras.src.ops.node import Node
from keras.src.saving.serialization_lib import ObjectSharingScope

PACKAGE = "keras.src."
"""What the name of the module of every class of Keras begins with."""
OPERATIONS = PACKAGE + "ops."
"""The same for the operations of `keras.ops`."""


def existing_types(module: Any, names: str) -> tuple[type, ...]:
    """Return those classes of a module that the installed Keras has.

    Args:
        module: of Keras.
        names: of classes, with spaces between them.

    Example:
        >>> import keras
        >>> [found.__name__ for found in existing_types(keras.layers, "Dense OfTomorrow")]
        ['Dense']
    """
    return tuple(getattr(module, name) for name in names.split() if hasattr(module, name))


@contextmanager
def restored_scopes() -> Iterator[None]:
    """Leave the name scopes of Keras as they were; also a decorator.

    Keras keeps a scope whose name TensorFlow has refused, and every later model fails with it.
    """
    stack = global_state.get_global_attribute("name_scope_stack", default=[], set_to_default=True)
    depth = len(stack)
    try:
        yield
    finally:
        del stack[depth:]


__all__ = [
    "OPERATIONS",
    "PACKAGE",
    "CustomScaleLayer",
    "Functional",
    "LayerScale",
    "Node",
    "ObjectSharingScope",
    "StochasticDepth",
    "array_operations",
    "backend",
    "core_operations",
    "existing_types",
    "network_operations",
    "restored_scopes",
]
