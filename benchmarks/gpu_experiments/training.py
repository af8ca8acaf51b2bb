"""Train a network for a given time: data, augmentation and whole epochs stay on the device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from material import DEVIATION, MEAN, Part, write_result
from networks import make_network

from edgeprune.distillation.schedule import learning_rate

MOMENTUM = 0.9
WARM_UP = 0.05
PADDING = 4
EVALUATION_BATCH = 1000
LEAST_SECONDS = 5.0


def augment(key: Any, images: Any) -> Any:
    """Flip half of the images, and crop at random from a border of black pixels."""
    flip_key, crop_key = jax.random.split(key)
    count, height, width, channels = images.shape
    flipped = jax.random.bernoulli(flip_key, 0.5, (count, 1, 1, 1))
    images = jnp.where(flipped, images[:, :, ::-1], images)
    border = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
    corners = jax.random.randint(crop_key, (count, 2), 0, 2 * PADDING + 1)

    def crop(image: Any, corner: Any) -> Any:
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    return jax.vmap(crop)(jnp.pad(images, border), corners)


class Trainer:
    """SGD with Nesterov momentum over a Keras model, one compiled call per epoch."""

    def __init__(self, model: keras.Model, data: Part, batch_size: int, decay: float) -> None:
        """Put everything on the device."""
        self._model = model
        self._images, self._labels = jnp.asarray(data.images), jnp.asarray(data.labels)
        self._batch_size = batch_size
        self._decays = [decay * ("kernel" in v.path) for v in model.trainable_variables]
        weights = [jnp.array(v.value) for v in model.trainable_variables]
        others = [jnp.array(v.value) for v in model.non_trainable_variables]
        self._state = (weights, others, [jnp.zeros_like(v) for v in weights], jax.random.key(0))
        self._epoch = jax.jit(self._run_epoch, donate_argnums=0)
        self.steps = len(data.images) // batch_size

    def train_epoch(self, first_rate: float, last_rate: float) -> float:
        """Train for one epoch with a linear change of the learning rate; return the mean loss."""
        rates = jnp.linspace(first_rate, last_rate, self.steps)
        self._state, loss = self._epoch(self._state, rates)
        return float(loss)

    def write_weights(self, model: keras.Model) -> None:
        """Set the weights of a model of the same architecture."""
        weights, others, *_ = self._state
        pairs = zip(model.trainable_variables, weights, strict=True)
        for variable, value in (
            *pairs,
            *zip(model.non_trainable_variables, others, strict=True),
        ):
            variable.assign(np.asarray(value))

    def _run_epoch(self, state: Any, rates: Any) -> Any:
        *carried, key = state
        key, order_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(self._images))
        order = order[: self.steps * self._batch_size].reshape(self.steps, self._batch_size)
        state, losses = jax.lax.scan(self._step, (*carried, key), (order, rates))
        return state, losses.mean()

    def _step(self, state: Any, batch: Any) -> Any:
        weights, others, momenta, key = state
        indices, rate = batch
        key, augment_key = jax.random.split(key)
        inputs = augment(augment_key, self._images[indices]).astype("float32")
        inputs = (inputs - MEAN) / DEVIATION
        gradient = jax.value_and_grad(self._loss, has_aux=True)
        (loss, others), slopes = gradient(weights, others, inputs, self._labels[indices])
        slopes = [s + d * w for s, d, w in zip(slopes, self._decays, weights, strict=True)]
        momenta = [MOMENTUM * m + s for m, s in zip(momenta, slopes, strict=True)]
        weights = [
            w - rate * (s + MOMENTUM * m) for w, s, m in zip(weights, slopes, momenta, strict=True)
        ]
        return (weights, others, momenta, key), loss

    def _loss(self, weights: Any, others: Any, inputs: Any, labels: Any) -> Any:
        found, others = self._model.stateless_call(weights, others, inputs, training=True)
        right = jnp.take_along_axis(found, labels[:, None], axis=-1)
        return -jnp.log(jnp.maximum(right, 1e-7)).mean(), others


def train(
    entry: dict[str, Any], parts: dict[str, Part], folder: Path, end: float, precision: str
) -> None:
    """Train a network and write `NAME.keras` in float32, and what it reached.

    Args:
        entry: of the recipe.
        parts: of the data.
        folder: for the results.
        end: when to be done at the latest, seconds since 1970: compilation may take long.
        precision: policy of Keras: `mixed_bfloat16` or `float32`.
    """
    name = entry["name"]
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    trainer = Trainer(
        make_network(name), parts["train"], entry["batch_size"], entry["weight_decay"]
    )
    peak = entry["learning_rate"]
    start = time.perf_counter()
    trainer.train_epoch(0.0, 0.0)
    compiling = time.perf_counter() - start
    seconds = min(entry["seconds"], max(end - time.time(), LEAST_SECONDS))
    start, last, epochs = time.perf_counter(), 0.0, 0
    done = 0.0
    while done < 1:
        ahead = min(1.0, done + max(last, 1e-3) / seconds)
        rates = [learning_rate(share, peak, WARM_UP) for share in (done, ahead)]
        began = time.perf_counter()
        loss = trainer.train_epoch(*rates)
        last, epochs = time.perf_counter() - began, epochs + 1
        done = min(1.0, (time.perf_counter() - start) / seconds)
        if epochs in (1, 2, 5) or epochs % 10 == 0:
            print(f"{name} epoch {epochs} loss {loss:.4f} rate {rates[0]:.4f} {last:.2f} s",
                  flush=True)  # fmt: skip
    trainer.train_epoch(learning_rate(0.99, peak, WARM_UP), 0.0)
    spent = time.perf_counter() - start
    keras.config.set_dtype_policy("float32")
    model = make_network(name)
    trainer.write_weights(model)
    model.save(folder / f"{name}.keras")
    test = parts["test"]
    outputs = model.predict(test.pair()[0], batch_size=EVALUATION_BATCH, verbose=0)
    result = {
        "network": name,
        "test_accuracy": float((outputs.argmax(-1) == test.labels).mean()),
        "test_images": len(test.labels),
        "train_images": len(parts["train"].labels),
        "epochs": epochs + 1,
        "seconds": spent,
        "compile_seconds": compiling,
        "images_per_second": len(parts["train"].labels) * (epochs + 1) / spent,
        "precision": precision,
        "device": str(jax.devices()[0].device_kind),
    }
    write_result(folder, name, result)
    print(result, flush=True)
