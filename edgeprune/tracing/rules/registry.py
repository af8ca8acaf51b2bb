"""What a rule sees (`Tracing`) and where rules are kept (`RULES`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from keras import layers

from edgeprune.tracing.graph import Call, TensorRef
from edgeprune.tracing.labels import (
    AxisUse,
    CallChange,
    ConfigChange,
    LabelSpace,
    Role,
    Shape,
    shorten,
    varying_axes,
)
from edgeprune.tracing.opening import SEALED_TYPES

Labels = np.ndarray
Rule = Callable[..., "Labels | list[Labels]"]
RULES: dict[type, Rule] = {}

BATCH = 2
ELEMENTWISE_ACTIVATIONS = """celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish
    hard_tanh leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus
    softsign sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink threshold"""
NORMALIZING_ACTIVATIONS = frozenset({"softmax", "log_softmax"})
ACTIVATION_LAYERS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax)
NORMALIZED = "normalised over by softmax"


def rule(*layer_types: type) -> Callable[[Rule], Rule]:
    """Register a function as the rule of one or several layer types, your own included.

    The function is called as `function(tracing, layer, *labels)`: a `Tracing`, the layer, and one
    label array per input tensor; it returns the labels of the output (a list of them if there are
    several outputs). Labels broadcast to the tensor's shape without the batch axis: `(1, 1, C)` for
    a feature map. Every build proves the rule, and stops if it is wrong.

    Args:
        layer_types: exact types; a subclass may override `call`, so it needs a rule of its own.

    Example:
        A layer with one factor per channel. Its factors go where the channels go:

        >>> import keras
        >>> import edgeprune.tracing.groups
        >>> class Scale(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.factor = self.add_weight(shape=(shape[-1],), name="factor")
        ...     def call(self, x):
        ...         return x * self.factor
        >>> @rule(Scale)
        ... def scale(tracing, layer, x):
        ...     tracing.use(layer.factor, 0, "passes", tracing.on_axis(x, -1))
        ...     return x
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"),
        ...     Scale(), keras.layers.Dense(2, name="head")])
        >>> print(edgeprune.tracing.groups.find_groups(model)["hidden"])
        hidden: 8 channels, hidden -> head
    """

    def register(function: Rule) -> Rule:
        for layer_type in layer_types:
            RULES[layer_type] = function
            SEALED_TYPES.add(layer_type)
        return function

    return register


@dataclass(frozen=True)
class Tracing:
    """What a rule sees of the call it describes.

    Attributes:
        space: where labels are made, tied and locked.
        call: the call, with its paths and shapes.
        sizes: number of a tensor -> its shape for one example batch, where that does not follow
            from its shape (unknown sizes, another leading axis than the batch).
        owner: the layer in the graph, where a rule describes a part of it.
        config_path: where the part's config lies in that of the owner: `layer/config/`.
    """

    space: LabelSpace
    call: Call
    sizes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    owner: Any = None
    config_path: str = ""

    @property
    def input_shapes(self) -> list[Shape]:
        """Shapes of the input tensors without the batch axis."""
        return [self._shape(ref) for ref in self.call.inputs]

    @property
    def output_shapes(self) -> list[Shape]:
        """Shapes of the output tensors without the batch axis."""
        return [self._shape(ref) for ref in self.call.outputs]

    def _shape(self, ref: TensorRef) -> Shape:
        """Return what Keras states, unless a rule knew better."""
        stated, recorded = tuple(ref.shape[1:]), self.sizes.get(ref.number)
        return stated if recorded is None or None in stated else recorded[1:]

    def example_shape(self, ref: TensorRef) -> tuple[int, ...] | None:
        """Return the shape of a tensor, batch included, in one example; `None` if unknown."""
        if ref.number in self.sizes:
            return self.sizes[ref.number]
        if None in ref.shape[1:]:
            return None
        return tuple(BATCH if size is None else size for size in ref.shape)

    def record_shape(self, ref: TensorRef, shape: tuple[int, ...]) -> None:
        """Remember the shape that a tensor really has in the example, where that is news."""
        if self.example_shape(ref) != shape:
            self.sizes[ref.number] = shape

    def by_argument(self, labels: Sequence[Labels]) -> Mapping[str, Labels]:
        """Return labels by the name of the argument of `call` that holds their tensor."""
        signature = inspect.signature(self.call.operation.call)
        bound = signature.bind(*self.call.args, **self.call.kwargs).arguments
        number_of = {ref.number: index for index, ref in enumerate(self.call.inputs)}
        return {
            name: labels[number_of[value.number]]
            for name, value in bound.items()
            if isinstance(value, TensorRef) and value.number in number_of
        }

    def on_axis(self, labels: Labels, axis: int, index: int = 0) -> Labels:
        """Return one label per position of an axis of input `index`, tying the other axes."""
        size = self.input_shapes[index][axis]
        along = self.space.collapse(labels, axis)
        return along if size is None else np.broadcast_to(along, (size,))

    def use(self, weight: Any, axis: int, role: Role, labels: Labels | None = None) -> Labels:
        """Say that an axis of a weight reads, writes or passes channels.

        Args:
            weight: a variable of the layer; `None` (a bias that is not there) is ignored.
            axis: axis of the weight, may be negative.
            role: what the axis does with the channels.
            labels: one label per position; fresh ones if not given.

        Returns:
            The labels, those of the first call where the layer is shared.
        """
        if weight is None:
            return np.empty(0, int) if labels is None else labels
        owner = self.call.operation if self.owner is None else self.owner
        index = [id(w) for w in owner.weights].index(id(weight))
        axis = axis % len(weight.shape)
        key = (self.call.path, index, axis)
        if labels is None:
            known = self.space.uses.get(key)
            labels = self.space.fresh(weight.shape[axis]) if known is None else known.labels
        return self.space.use(key, AxisUse(self.call.path, index, axis, role, labels))

    def count(self, entry: str, labels: Labels, position: int | None = None) -> None:
        """Say that an entry of the layer's config is the number of these channels.

        Args:
            entry: key of the config, such as `filters`.
            labels: one label per channel that it counts.
            position: index into the entry where it is a tuple, such as `target_shape`.
        """
        key = (self.call.path, self.config_path + entry, position)
        if key in self.space.extents:
            self.space.tie(self.space.extents[key], labels)
        else:
            self.space.extents[key] = labels

    def repeat(self, labels: Labels) -> None:
        """Say that the layer does its work once for each of these channels."""
        self.space.repeats.setdefault(self.call.path, labels)

    def change_config(self, change: ConfigChange) -> None:
        """Register what adapts the layer's config to the channels that stay.

        Args:
            change: `change(config, keep)` works in place; `keep(labels)` gives the positions in an
                array of labels that stay. For a shared layer the first call's is used.
        """
        self.space.config_changes.setdefault(self.call.path, change)

    def change_call(self, change: CallChange) -> None:
        """Register what adapts the arguments of this call: `change(args, kwargs, keep)`."""
        self.space.call_changes.setdefault((self.call.path, self.call.position), change)

    def activate(self, layer: Any, labels: Labels, attribute: str = "activation") -> Labels:
        """Account for a layer's activation on its output labels."""
        activation = getattr(layer, attribute, None)
        name = getattr(activation, "__name__", type(activation).__name__)
        if activation is None or name in ELEMENTWISE_ACTIVATIONS.split():
            return labels
        if isinstance(activation, ACTIVATION_LAYERS) and type(activation) in RULES:
            inner = self.inside(activation, "", self.call.outputs, self.call.outputs)
            return np.asarray(RULES[type(activation)](inner, activation, labels))
        if name in NORMALIZING_ACTIVATIONS:
            self.space.lock(labels, NORMALIZED)
        else:
            self.space.lock(labels, f"activation '{name}' of '{layer.name}' may mix channels")
        return labels

    def inside(
        self,
        part: Any,
        config_path: str,
        inputs: tuple[TensorRef, ...],
        outputs: tuple[TensorRef, ...],
    ) -> Tracing:
        """Return what a rule sees of a layer inside this one, called on other tensors."""
        call = replace(self.call, operation=part, inputs=inputs, outputs=outputs)
        owner = self.call.operation if self.owner is None else self.owner
        return replace(self, call=call, owner=owner, config_path=self.config_path + config_path)

    def pass_spatial(self, labels: Labels, axis: int, size: int | None = None) -> Labels:
        """Pass labels through a layer that mixes positions: only `axis` may hold channels.

        Others are locked, and so is what comes out in their place.

        Args:
            labels: of one input.
            axis: of the channels, may be negative.
            size: of this axis; that of the first input if not given.
        """
        if not set(varying_axes(labels)) - {axis % labels.ndim}:
            return labels
        reason = f"'{self.call.path}' mixes the axis that holds these channels"
        self.space.lock(labels, reason)
        fresh = self.space.fresh(size or self.input_shapes[0][axis] or 1)
        self.space.lock(fresh, reason)
        return place(fresh, axis, labels.ndim)

    def opaque(self, reason: str, labels: Sequence[Labels]) -> list[Labels]:
        """Lock all channels that go in, and let locked ones come out."""
        for given in labels:
            self.space.lock(given, reason)
        return [self.locked_output(index, reason) for index in range(len(self.call.outputs))]

    def locked_output(self, index: int, reason: str) -> Labels:
        """Return locked labels along the last axis of output `index`."""
        shape = self.output_shapes[index]
        fresh = self.space.fresh(shape[-1] or 1 if shape else 1)
        self.space.lock(fresh, reason)
        return place(fresh, -1, len(shape))


def place(labels: Labels, axis: int, rank: int) -> Labels:
    """Return labels `(C,)` as an array of `rank` axes that holds them along `axis`."""
    shape = [1] * rank
    if rank:
        shape[axis] = -1
    return labels.reshape(shape)


def channel_axis(layer: Any) -> int:
    """Axis of the channels in a tensor without its batch axis."""
    return 0 if getattr(layer, "data_format", None) == "channels_first" else -1


__all__ = [
    "BATCH",
    "NORMALIZED",
    "RULES",
    "Labels",
    "Rule",
    "Tracing",
    "channel_axis",
    "place",
    "rule",
    "shorten",
    "varying_axes",
]
