"""Matrices: Dense, EinsumDense and Embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import layers

from edgeprune.tracing.labels import Role
from edgeprune.tracing.rules.registry import Labels, Tracing, place, rule, varying_axes


@rule(layers.Dense)
def connect_densely(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Read the last axis, write units; channels on another axis pass."""
    if set(varying_axes(x)) - {x.ndim - 1}:
        tracing.repeat(x.reshape(-1))
        return tracing.activate(layer, x)
    tracing.use(layer.kernel, 0, "reads", tracing.on_axis(x, -1))
    made = tracing.use(layer.kernel, 1, "writes")
    tracing.use(layer.bias, 0, "writes", made)
    tracing.count("units", made)
    return tracing.activate(layer, place(made, -1, x.ndim))


@rule(layers.Embedding)
def embed(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Whole numbers go in, written channels come out."""
    tracing.space.lock(x, f"looked up in '{tracing.call.path}'")
    made = tracing.use(layer.embeddings, 1, "writes")
    tracing.count("output_dim", made)
    return place(made, -1, x.ndim + 1)


@dataclass(frozen=True)
class Equation:
    """An einsum equation of one tensor and one kernel, with one letter per axis.

    Attributes:
        taken: letters of the input, batch included; digits stand for what `...` covers.
        kernel: letters of the kernel.
        made: letters of the output.
        sized: letters of the output whose sizes the config names, in its order.
    """

    taken: str
    kernel: str
    made: str
    sized: str

    @classmethod
    def parse(cls, text: str, rank: int) -> Equation:
        """Read an equation for an input of `rank` axes.

        Example:
            >>> Equation.parse("...x,xy->...y", 3)
            Equation(taken='01x', kernel='xy', made='01y', sized='y')
        """
        operands, made = text.replace(" ", "").split("->")
        taken, kernel = operands.split(",")
        rest = "".join(map(str, range(rank - len(taken.replace("...", "")))))
        named = made.replace("...", "")
        return cls(
            taken.replace("...", rest),
            kernel,
            made.replace("...", rest),
            named if made.startswith("...") else named[1:],
        )


@rule(layers.EinsumDense)
def connect_by_einsum(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Letters that vanish are read, new ones are written, those that stay pass."""
    equation = Equation.parse(layer.equation, len(tracing.call.inputs[0].shape))
    reason = f"'{tracing.call.path}' ({layer.equation}) mixes the axis that holds these channels"
    read = [a for a in equation.taken[1:] if a in equation.kernel and a not in equation.made]
    written = [a for a in equation.made if a not in equation.taken]
    axes = varying_axes(x)
    holder = equation.taken[axes[0] + 1] if axes else (read or equation.taken)[-1]
    along = tracing.on_axis(x, equation.taken.index(holder) - 1)
    if holder in equation.made:
        _store(tracing, layer, equation, holder, "passes", along)
        if holder not in equation.kernel:
            tracing.repeat(along)
        made = along
    elif written:
        if holder in read:
            tracing.use(layer.kernel, equation.kernel.index(holder), "reads", along)
        else:
            tracing.space.lock(x, reason)
        holder = written[-1]
        made = tracing.use(layer.kernel, equation.kernel.index(holder), "writes")
        _store(tracing, layer, equation, holder, "writes", made)
    else:
        return tracing.opaque(reason, [x])[0]
    _correct_shape(tracing, equation)
    axis = equation.made.index(holder) - 1
    return tracing.activate(layer, place(made, axis, len(equation.made) - 1))


def _correct_shape(tracing: Tracing, equation: Equation) -> None:
    """Record the output's shape: Keras 3.15 states the axes under `...` in reverse order."""
    (given,), (made,) = tracing.call.inputs, tracing.call.outputs
    taken, stated = tracing.example_shape(given), tracing.example_shape(made)
    if taken is not None and stated is not None:
        sizes = dict(zip(equation.taken, taken, strict=True))
        real = (sizes.get(one, size) for one, size in zip(equation.made, stated, strict=True))
        tracing.record_shape(made, tuple(real))


def _store(
    tracing: Tracing, layer: Any, equation: Equation, letter: str, role: Role, labels: Labels
) -> None:
    """Record where a letter of the output is stored: in kernel, bias and config."""
    if letter in equation.kernel:
        tracing.use(layer.kernel, equation.kernel.index(letter), role, labels)
    bias_axes = layer.bias_axes or ""
    if letter in bias_axes:
        first = min(equation.made.index(axis) for axis in bias_axes)
        tracing.use(layer.bias, equation.made.index(letter) - first, role, labels)
    if letter in equation.sized:
        sizes = layer.get_config()["output_shape"]
        position = equation.sized.index(letter)
        if isinstance(sizes, int):
            tracing.count("output_shape", labels)
        elif sizes[position] is not None:
            tracing.count("output_shape", labels, position)
