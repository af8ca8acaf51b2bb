"""From drawn steps to a network."""

from __future__ import annotations

from random import Random
from typing import Any

import keras
import numpy as np
from keras import layers

from grammar import everywhere, maps, merges, sequences, singles, vectors, volumes
from grammar.custom import Subclassed
from grammar.growing import Grower

STEPS = {
    2: vectors.STEPS,
    3: [vectors.to_vector, *sequences.STEPS],
    4: [vectors.to_vector, *maps.STEPS],
    5: [vectors.to_vector, *volumes.STEPS],
}


def draw_model(random: Random) -> keras.Model:
    """Draw a network with one to three inputs, one or two outputs, functional or subclassed."""
    keras.backend.clear_session(free_memory=False)  # collecting garbage takes longer than the rest
    size = random.choice([4, 5, None])
    grower = Grower(random, merge=size is not None)
    first = grower.choice([open_image, open_image, open_sequence, open_volume])
    inputs = [first(grower, size)]
    inputs += [
        enter(grower, size) for enter in (open_vector, open_words) if not grower.number(0, 3)
    ]
    for _ in range(grower.number(1, 8)):
        grow(grower)
    leaves = [x for index, x in enumerate(grower.pool) if index not in grower.used]
    leaves = leaves or grower.pool[-1:]
    tops = [vectors.to_vector(grower, x) for x in leaves]
    x = layers.Concatenate()(tops) if len(tops) > 1 else tops[0]
    outputs = [layers.Dense(3, name="head")(x)]
    if grower.yes():
        outputs.append(layers.Dense(2, activation="softmax", name="second")(tops[-1]))
    structure = {tensor.name: tensor for tensor in inputs} if grower.yes() else inputs
    model = keras.Model(structure, outputs)
    known = all(tensor.dtype == "float32" for tensor in model.inputs)
    return subclass(model) if known and not grower.number(0, 5) else model


def open_image(grower: Grower, size: int | None) -> Any:
    x = keras.Input((size, size, 3), name="image")
    grower.pool.append(layers.Conv2D(grower.number(3, 6), 3, padding="same")(x))
    return x


def open_sequence(grower: Grower, size: int | None) -> Any:
    x = keras.Input((size, 3), name="sequence")
    grower.pool.append(layers.Conv1D(grower.number(3, 6), 3, padding="same")(x))
    return x


def open_volume(grower: Grower, size: int | None) -> Any:
    x = keras.Input((2, 3, size or 3, 2), name="volume")
    grower.pool.append(layers.Conv3D(grower.number(3, 6), 2, padding="same")(x))
    return x


def open_vector(grower: Grower, size: int | None) -> Any:
    x = keras.Input((4,), name="vector")
    grower.pool.append(layers.Dense(grower.number(3, 6))(x))
    return x


def open_words(grower: Grower, size: int | None) -> Any:
    x = keras.Input((5,), dtype="int32", name="words")
    grower.pool.append(layers.Embedding(6, grower.number(2, 5), mask_zero=grower.yes())(x))
    return x


def subclass(model: keras.Model) -> keras.Model:
    """Hide the graph of a model in one that has none."""
    hiding = Subclassed(model)
    examples = [
        np.zeros([5 if size is None else size for size in tensor.shape], tensor.dtype)
        for tensor in model.inputs
    ]
    hiding(examples if len(examples) > 1 else examples[0])
    return hiding


def grow(grower: Grower) -> None:
    """Draw a step and apply it to a drawn tensor."""
    number = grower.choice(range(len(grower.pool)))
    tensor = grower.pool[number]
    partners = grower.partners(number)
    if partners and grower.number(0, 2) == 0:
        other = grower.choice(partners)
        made = grower.choice(merges.STEPS)(grower, tensor, grower.pool[other])
        grower.used |= {number, other}
    else:
        rank = len(tensor.shape)
        kinds = [STEPS[rank]] * 3 + [everywhere.STEPS] * 2 + [singles.ANY, singles.OF_RANK[rank]]
        made = grower.choice(grower.choice(kinds))(grower, tensor)
        grower.used.add(number)
    grower.add(made)
