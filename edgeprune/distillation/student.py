"""The two models of a distillation: one that answers, and one that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from edgeprune.distillation.batch_norm_folding import FoldedModel
from edgeprune.distillation.objectives import LossFunction, make_comparable
from edgeprune.distillation.relative_muon import RelativeMuon, measure_steps
from edgeprune.distillation.training_settings import Training
from edgeprune.tracing.inference import COMPILES, answer
from edgeprune.tracing.replica import copy_weights, duplicate, operations_by_path, replicate

# Keras' default of 0.99 looks back over more steps than a short training has.
BATCH_NORM_MOMENTUM = 0.9
SGD_MOMENTUM = 0.9


class Teacher:
    """A model that is asked for its logits, and attention maps after them."""

    def __init__(self, model: keras.Model, block_ends: list[str], batch_size: int) -> None:
        """Copy the model.

        Args:
            model: the original; it is not changed.
            block_ends: layers whose attention maps are wanted.
            batch_size: samples per call.
        """
        _, self._model = make_comparable(model, block_ends)
        self._model.compile(jit_compile=COMPILES)
        self._batch_size = batch_size

    def answer(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Return every output on `(n, ...)` inputs."""
        return answer(self._model, inputs, self._batch_size)


class Student:
    """A pruned model in training."""

    def __init__(
        self,
        model: keras.Model,
        block_ends: list[str],
        losses: Sequence[LossFunction],
        settings: Training,
        inputs: np.ndarray,
    ) -> None:
        """Copy the model and make everything in the copy trainable.

        Args:
            model: the pruned model; it is not changed.
            block_ends: layers whose attention maps are compared.
            losses: one per output, then one per block end.
            settings: how to train.
            inputs: `(n, ...)` samples on which the sizes of steps are measured.
        """
        self._original = model
        self._folded = FoldedModel(model) if settings.optimizer == "muon" else None
        self._plain, self._full = make_comparable(
            self._folded.model if self._folded else model, block_ends
        )
        for layer in operations_by_path(self._plain).values():
            if isinstance(layer, keras.Layer):
                layer.trainable = True
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = min(layer.momentum, BATCH_NORM_MOMENTUM)
            if getattr(layer, "seed_generator", None) is not None:
                layer.seed_generator.state.assign([settings.seed, 0])
        self._trained = self._full
        self._optimizer = self._make_optimizer(settings, inputs)
        if self._folded:
            self._trained = _Steady(self._full)
            self._plain.compile(jit_compile=COMPILES)
        weights = [1.0] * len(model.outputs) + [settings.features] * len(block_ends)
        single = len(weights) == 1
        self._trained.compile(
            self._optimizer,
            loss=losses[0] if single else list(losses),
            loss_weights=None if single else weights,
            jit_compile=COMPILES,
        )
        if self._plain is not self._full:
            self._plain.compile(jit_compile=COMPILES)
        self._optimizer.build(self._trained.trainable_variables)

    def _make_optimizer(self, settings: Training, inputs: np.ndarray) -> keras.optimizers.Optimizer:
        rate, decay = settings.rate, settings.weight_decay
        if settings.optimizer == "muon":
            return RelativeMuon(measure_steps(self._plain, inputs), rate, decay)
        if settings.optimizer == "adamw":
            optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
        else:
            optimizer = keras.optimizers.SGD(
                rate, momentum=SGD_MOMENTUM, nesterov=True, weight_decay=decay
            )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer

    def step(self, inputs: np.ndarray, wanted: list[np.ndarray], rate: float) -> float:
        """Take one step of gradient descent and return the loss before it."""
        self._optimizer.learning_rate = rate
        targets = wanted[0] if len(wanted) == 1 else wanted
        losses: Any = self._trained.train_on_batch(inputs, targets)
        return float(losses[0] if isinstance(losses, list) else losses)

    def answer(self, inputs: np.ndarray, batch_size: int) -> list[np.ndarray]:
        """Return the logits on `(n, ...)` inputs, every output."""
        return answer(self._plain, inputs, batch_size)

    @property
    def weights(self) -> list[np.ndarray]:
        """A copy of all weights."""
        return [np.array(weight) for weight in self._plain.get_weights()]

    @weights.setter
    def weights(self, values: Sequence[np.ndarray]) -> None:
        self._plain.set_weights(list(values))

    @property
    def optimizer(self) -> list[np.ndarray]:
        """A copy of the optimizer's variables."""
        variables = self._optimizer.variables
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    @optimizer.setter
    def optimizer(self, values: Sequence[np.ndarray]) -> None:
        for variable, value in zip(self._optimizer.variables, values, strict=True):
            variable.assign(value)

    def finish(self, weights: Sequence[np.ndarray] | None) -> keras.Model:
        """Return a new model like the one given at first.

        Args:
            weights: that were learned; `None` for those it had.
        """
        if weights is None:
            return duplicate(self._original)
        self.weights = weights
        if self._folded:
            return self._folded.unfold(self._plain)
        model, made = replicate(self._original)
        copy_weights(self._plain, made)
        return model


class _Steady(keras.Model):
    """Another model that answers in training as it does afterwards: no statistics of batches."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name=model.name)
        self.model = model

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs, training=False)
