"""One trained network in every form that Keras gives it; all forms answer alike."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import keras
import numpy as np
from specialists import digits, make_classifier

Layers = list[keras.Layer]
IMAGE = (8, 8, 1)
NUM_BODY = 4
"""Layers that lie in the inner model, where there is one."""


@cache
def original() -> keras.Model:
    return make_classifier(body="pooling")


def _chain(made: Layers, name: str = "digits") -> keras.Model:
    image = x = keras.Input(IMAGE, name="image")
    for layer in made:
        x = layer(x)
    return keras.Model(image, x, name=name)


def _called(model: keras.Model) -> keras.Model:
    model(np.zeros((3, *IMAGE), np.float32))
    return model


def _inner(made: Layers, count: int = NUM_BODY) -> keras.Model:
    return _chain(made[:count], "body")


def _reopened(made: Layers) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        _filled(_chain(made)).save(f"{folder}/model.h5")
        return keras.models.load_model(f"{folder}/model.h5", compile=False)


def _sequential(*made: Any) -> keras.Model:
    return keras.Sequential(list(made), name="digits")


FORMS: Mapping[str, Callable[[Layers], keras.Model]] = {
    "functional": _chain,
    "sequential": lambda made: _sequential(keras.Input(IMAGE), *made),
    "sequential called on data": lambda made: _called(_sequential(*made)),
    "functional in sequential": lambda made: _called(_sequential(_inner(made), *made[NUM_BODY:])),
    "sequential in functional": lambda made: _chain(
        [keras.Sequential([keras.Input(IMAGE), *made[:NUM_BODY]], name="body"), *made[NUM_BODY:]]
    ),
    "all of it in sequential": lambda made: _sequential(
        keras.Input(IMAGE), _inner(made, len(made))
    ),
    "reopened from .h5": _reopened,
}


def make(form: str) -> keras.Model:
    """Build the network anew in one form."""
    made = [type(layer).from_config(layer.get_config()) for layer in original().layers[1:]]
    return _filled(FORMS[form](made))


def _filled(model: keras.Model) -> keras.Model:
    model.set_weights(original().get_weights())
    return model


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = digits()
    return x[:count].astype(np.float32), y[:count]
