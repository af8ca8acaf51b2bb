"""Steps of gradient descent relative to the size of what they change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from edgeprune.tracing.graph import Call, build_graph, run
from edgeprune.tracing.replica import operations_by_path

MIXING = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense)
MOMENTUM = 0.9
ADAM_MEMORY = 0.999
ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LEAST = 1e-6


@dataclass(frozen=True)
class Step:
    """How one variable is changed.

    Attributes:
        size: in the variable's own unit; a learning rate of 1 moves it by about this much, a
            fifth of it where the step is orthogonal (root mean square).
        matrix: whether it is a kernel that mixes all its inputs, and takes orthogonal steps.
    """

    size: float
    matrix: bool


class RelativeMuon(keras.optimizers.Optimizer):
    """Muon for kernels that mix channels, Adam for all else, each relative to its own size.

    Muon after Jordan et al. (2024): momentum, then the nearest orthogonal matrix by five
    Newton-Schulz iterations, of the root mean square of Adam's steps (Liu et al., 2025). Relative
    steps are ours: one learning rate suits weights of any scale, folded or not.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> optimizer = RelativeMuon(measure_steps(model, np.ones((4, 2), np.float32)))
        >>> model.compile(optimizer, "mse")
        >>> bool(model.train_on_batch(np.ones((4, 2)), np.ones((4, 3))) > 0)
        True
    """

    def __init__(
        self, steps: Sequence[Step], learning_rate: float = 0.01, weight_decay: float = 0.01
    ) -> None:
        """Prepare.

        Args:
            steps: one per trainable variable of the model, in their order.
            learning_rate: relative to the sizes.
            weight_decay: of kernels, at a learning rate of 1, relative to the sizes as well.
        """
        super().__init__(learning_rate)
        self._steps = list(steps)
        self._decay = weight_decay
        self._first: list[Any] = []
        self._second: list[Any] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Make momentum for all variables, and the second moment for those that Adam changes."""
        if self.built:
            return
        super().build(variables)
        for variable, step in zip(variables, self._steps, strict=True):
            make = self.add_variable_from_reference
            self._first.append(make(variable, name="momentum"))
            self._second.append(None if step.matrix else make(variable, name="velocity"))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change one variable."""
        index = self._get_variable_index(variable)
        step, first = self._steps[index], self._first[index]
        rate = ops.cast(learning_rate, variable.dtype) * step.size
        if step.matrix:
            self.assign(first, MOMENTUM * first + gradient)
            move = _orthogonal(gradient + MOMENTUM * first)
        else:
            move = self._adam(gradient, first, self._second[index])
        if len(variable.shape) > 1:
            move = move + self._decay * variable
        self.assign_sub(variable, rate * move)

    def _adam(self, gradient: Any, first: Any, second: Any) -> Any:
        count = ops.cast(self.iterations + 1, gradient.dtype)
        self.assign(first, MOMENTUM * first + (1 - MOMENTUM) * gradient)
        self.assign(second, ADAM_MEMORY * second + (1 - ADAM_MEMORY) * ops.square(gradient))
        root = ops.sqrt(second / (1 - ops.power(ADAM_MEMORY, count)))
        return first / (1 - ops.power(MOMENTUM, count)) / (root + 1e-7)


def _orthogonal(gradient: Any) -> Any:
    """Return the matrix of the same singular vectors whose singular values are 0.7 to 1.2, scaled.

    Its root mean square is about 0.2, whatever its shape.
    """
    rows, columns = math.prod(gradient.shape[:-1]), gradient.shape[-1]
    matrix = ops.reshape(gradient, (rows, columns))
    tall = rows > columns
    x = ops.transpose(matrix) if tall else matrix
    x = x / (ops.sqrt(ops.sum(ops.square(x))) + 1e-12)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * square + c * ops.matmul(square, square), x)
    x = ops.transpose(x) if tall else x
    return 0.2 * max(rows, columns) ** 0.5 * ops.reshape(x, gradient.shape)


def measure_steps(model: keras.Model, inputs: np.ndarray) -> list[Step]:
    """Return how far every trainable variable may go.

    Kernels are measured by their root mean square, what is added to a layer's output by the
    standard deviation of that output, scales of normalizations by 1.

    Args:
        model: in float32; all that is trainable counts.
        inputs: `(n, ...)` samples to measure outputs on; some hundred are enough.
    """
    spread = _measure_outputs(model, inputs)
    found: dict[int, Step] = {}
    for path, layer in operations_by_path(model).items():
        for variable in getattr(layer, "trainable_variables", []):
            found[id(variable)] = _choose_step(layer, variable, spread.get(path, 1.0))
    return [found[id(variable)] for variable in model.trainable_variables]


def _choose_step(layer: Any, variable: Any, spread: float) -> Step:
    if len(variable.shape) > 1:
        values = np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
        size = float(np.sqrt(np.square(values).mean()))
        mixes = type(layer) in MIXING and getattr(layer, "groups", 1) == 1
        return Step(max(size, LEAST), mixes)
    scales = variable.name in ("gamma", "alpha") or "scale" in variable.name
    return Step(1.0 if scales else max(spread, LEAST), matrix=False)


def _measure_outputs(model: keras.Model, inputs: np.ndarray) -> dict[str, float]:
    """Return the standard deviation of what each layer with weights gives, by path."""
    spread: dict[str, float] = {}

    def observe(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = call.operation(*args, **kwargs)
        if getattr(call.operation, "weights", None):
            first = keras.tree.flatten(result)[0]
            spread[call.path] = float(keras.ops.convert_to_numpy(ops.std(first)))
        return result

    run(build_graph(model), [ops.convert_to_tensor(inputs)], observe)
    return spread
