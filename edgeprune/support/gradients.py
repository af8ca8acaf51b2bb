"""Derivatives on whichever backend Keras runs: the one place that knows how each takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import keras
from keras import ops

from edgeprune.errors import EdgepruneError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Tensor = Any
Function = Callable[[Sequence[Tensor]], Tensor]
Differentiate = Callable[[Function, Sequence[Tensor]], tuple[Tensor, list[Tensor]]]


def differentiate(
    function: Function, arguments: Sequence[Tensor], *, backend: str | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Return the value of a function and its derivative by each argument.

    Args:
        function: takes the arguments as a sequence, returns one number; written with `keras.ops`.
        arguments: arrays or tensors of floating-point numbers.
        backend: the one that Keras runs on, by default.

    Returns:
        The value, and one tensor per argument, of its shape; zeros where it has no influence.

    Raises:
        EdgepruneError: the backend has no derivatives.

    Example:
        >>> value, (slope,) = differentiate(lambda xs: ops.sum(xs[0] ** 2), [[1.0, 3.0]])
        >>> float(value), ops.convert_to_numpy(slope).tolist()
        (10.0, [2.0, 6.0])
    """
    name = keras.backend.backend() if backend is None else backend
    if name not in _BACKENDS:
        raise EdgepruneError(
            f"Keras runs on the backend '{name}', which has no gradients. Set KERAS_BACKEND to one "
            f"of: {', '.join(_BACKENDS)}; or choose a criterion that needs none."
        )
    return _BACKENDS[name](function, [ops.convert_to_tensor(value) for value in arguments])


def without_gradients(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function forget how it computed what it computes; `differentiate` inside it works.

    PyTorch would keep every feature map that the weights had a part in, for a derivative that
    nobody asks for. Other backends forget anyway.
    """

    @wraps(function)
    def forgetful(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with _forgetting():
            return function(*args, **kwargs)

    return forgetful


def _forgetting() -> AbstractContextManager[Any]:
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _with_tensorflow(
    function: Function, arguments: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    import tensorflow

    with tensorflow.GradientTape(watch_accessed_variables=False) as tape:
        for argument in arguments:
            tape.watch(argument)
        value = function(arguments)
    zero = tensorflow.UnconnectedGradients.ZERO
    return value, tape.gradient(value, list(arguments), unconnected_gradients=zero)


def _with_jax(function: Function, arguments: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    import jax

    return jax.value_and_grad(function)(list(arguments))


def _with_torch(function: Function, arguments: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    import torch

    with torch.enable_grad():
        watched = [argument.detach().requires_grad_(True) for argument in arguments]
        value = function(watched)
        found = torch.autograd.grad(value, watched, allow_unused=True)
    gradients = [
        torch.zeros_like(argument) if gradient is None else gradient
        for argument, gradient in zip(watched, found, strict=True)
    ]
    return value.detach(), gradients


_BACKENDS: dict[str, Differentiate] = {
    "tensorflow": _with_tensorflow,
    "jax": _with_jax,
    "torch": _with_torch,
}
