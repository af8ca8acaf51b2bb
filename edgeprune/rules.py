"""How each layer treats channel labels: `RULES`, from layer type to function.

A rule gets a `Tracing` (what is being called, and the label space) and the labels of the inputs; it
returns the labels of the outputs. A layer without a rule locks the channels it touches. A new layer
is added here, in one function.

Rules and layers meet by exact type: a subclass may override `call`, so it needs a rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers as L

from edgeprune.graph import Call
from edgeprune.labels import AxisUse, LabelSpace, Role, Shape, shorten, varying_axes

Labels = np.ndarray
Rule = Callable[..., "Labels | list[Labels]"]
RULES: dict[type, Rule] = {}

ELEMENTWISE_ACTIVATIONS = frozenset(
    """celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign
    sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink threshold""".split()
)
NORMALIZING_ACTIVATIONS = frozenset({"softmax", "log_softmax"})
NORMALIZED = "normalised over by softmax"


def rule(*layer_types: type) -> Callable[[Rule], Rule]:
    """Register a function as the rule of one or several layer types.

    The function is called as `function(tracing, layer, *labels)`, with one label array per input
    tensor (see `edgeprune.labels` for their shape), and returns the labels of the output.
    """

    def register(function: Rule) -> Rule:
        for layer_type in layer_types:
            RULES[layer_type] = function
        return function

    return register


@dataclass(frozen=True)
class Tracing:
    """What a rule sees of the call it describes.

    Attributes:
        space: where labels are made, tied and locked.
        call: the call, with its paths and shapes.
    """

    space: LabelSpace
    call: Call

    @property
    def input_shapes(self) -> list[Shape]:
        """Shapes of the input tensors without the batch axis."""
        return [tuple(ref.shape[1:]) for ref in self.call.inputs]

    @property
    def output_shapes(self) -> list[Shape]:
        """Shapes of the output tensors without the batch axis."""
        return [tuple(ref.shape[1:]) for ref in self.call.outputs]

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
        index = [id(w) for w in self.call.operation.weights].index(id(weight))
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
        key = (self.call.path, entry, position)
        if key in self.space.extents:
            self.space.tie(self.space.extents[key], labels)
        else:
            self.space.extents[key] = labels

    def activate(self, layer: Any, labels: Labels) -> Labels:
        """Account for a layer's `activation` on its output labels."""
        activation = getattr(layer, "activation", None)
        name = getattr(activation, "__name__", type(activation).__name__)
        if activation is None or name in ELEMENTWISE_ACTIVATIONS:
            return labels
        if type(activation) in RULES:
            return RULES[type(activation)](self, activation, labels)
        if name in NORMALIZING_ACTIVATIONS:
            self.space.lock(labels, NORMALIZED)
        else:
            self.space.lock(labels, f"activation '{name}' of '{layer.name}' may mix channels")
        return labels

    def pass_spatial(self, labels: Labels, axis: int) -> Labels:
        """Pass labels through a layer that mixes positions: only `axis` may hold channels."""
        if set(varying_axes(labels)) - {axis % labels.ndim}:
            self.space.lock(labels, f"'{self.call.path}' mixes the axis that holds these channels")
        return labels

    def opaque(self, reason: str, labels: Sequence[Labels]) -> list[Labels]:
        """Lock all channels that go in, and let locked ones come out."""
        for given in labels:
            self.space.lock(given, reason)
        made = []
        for shape in self.output_shapes:
            fresh = place(self.space.fresh(shape[-1] or 1 if shape else 1), -1, max(len(shape), 1))
            self.space.lock(fresh, reason)
            made.append(fresh)
        return made

    def rectangular(self, labels: Labels) -> Labels:
        """Tie labels so that they vary along one axis: what remains must still be a rectangle."""
        labels = shorten(labels)
        axes = varying_axes(labels)
        if len(axes) < 2:
            return labels
        along = self.space.collapse(labels, axes[-1])
        return place(along, axes[-1], labels.ndim)


def place(labels: Labels, axis: int, rank: int) -> Labels:
    """Return labels `(C,)` as an array of `rank` axes that holds them along `axis`."""
    shape = [1] * rank
    shape[axis] = -1
    return labels.reshape(shape)


def channel_axis(layer: Any) -> int:
    """Axis of the channels in a tensor without its batch axis."""
    return 0 if getattr(layer, "data_format", None) == "channels_first" else -1


def apply_rule(tracing: Tracing, labels: Sequence[Labels]) -> list[Labels]:
    """Return the labels of a call's outputs, by its rule or, without one, locked."""
    operation = tracing.call.operation
    found = RULES.get(type(operation))
    if found is None:
        kind = "Layer" if tracing.call.is_layer else "Operation"
        return tracing.opaque(
            f"{kind} '{tracing.call.path}' ({type(operation).__name__}) has no channel rule", labels
        )
    made = found(tracing, operation, *labels)
    return made if isinstance(made, list) else [made]


@rule(
    L.Activation, L.ReLU, L.LeakyReLU, L.ELU, L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D,
    L.SpatialDropout3D, L.GaussianDropout, L.GaussianNoise, L.AlphaDropout, L.ActivityRegularization,
    L.Identity, L.Rescaling,
)  # fmt: skip
def pass_elementwise(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """What happens to a number depends on that number alone."""
    if any(np.size(getattr(layer, name, 0)) > 1 for name in ("scale", "offset")):
        tracing.space.lock(x, f"'{tracing.call.path}' holds one constant per channel")
    return tracing.activate(layer, x)


@rule(
    L.MaxPooling2D, L.AveragePooling2D, L.ZeroPadding2D, L.Cropping2D, L.UpSampling2D,
    L.MaxPooling1D, L.AveragePooling1D, L.MaxPooling3D, L.AveragePooling3D,
)  # fmt: skip
def pass_positions(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Positions mix or move, channels do not."""
    return tracing.pass_spatial(x, channel_axis(layer))


@rule(
    L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D,
    L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D,
)  # fmt: skip
def pool_globally(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """One value per channel; the spatial axes go or become 1."""
    axis = channel_axis(layer)
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)
    return place(along, axis, len(tracing.output_shapes[0]))


@rule(L.Softmax)
def normalize(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Softmax ties the values of an axis to one sum; channels on other axes pass."""
    axes = layer.axis if isinstance(layer.axis, (tuple, list)) else (layer.axis,)
    rank = len(tracing.call.inputs[0].shape)
    normalized = {axis % rank - 1 for axis in axes}
    if normalized & set(varying_axes(x)):
        tracing.space.lock(x, NORMALIZED)
    return x


@rule(L.BatchNormalization)
def scale_channels(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Every weight holds one value per channel of the normalised axis."""
    axis = layer.axis % len(tracing.call.inputs[0].shape) - 1
    along = tracing.on_axis(x, axis)
    for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        tracing.use(weight, 0, "passes", along)
    return place(along, axis, x.ndim)


@rule(L.Conv1D, L.Conv2D, L.Conv3D)
def convolve(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Read on the kernel's axis -2, write on its axis -1; groups tie channels of equal rank."""
    axis = channel_axis(layer)
    read = tie_groups(tracing, tracing.on_axis(tracing.pass_spatial(x, axis), axis), layer.groups)
    tracing.use(layer.kernel, -2, "reads", read)
    made = tracing.use(layer.kernel, -1, "writes")
    tie_groups(tracing, made, layer.groups)
    tracing.use(layer.bias, 0, "writes", made)
    tracing.count("filters", made)
    return tracing.activate(layer, place(made, axis, x.ndim))


def tie_groups(tracing: Tracing, labels: Labels, groups: int) -> Labels:
    """Tie the first channel of every group, the second of every group, and so on."""
    rows = labels.reshape(groups, -1)
    for row in rows[1:]:
        tracing.space.tie(rows[0], row)
    return rows[0]


@rule(L.DepthwiseConv1D, L.DepthwiseConv2D)
def convolve_depthwise(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Each channel makes `depth_multiplier` channels of its own."""
    axis = channel_axis(layer)
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)
    tracing.use(layer.kernel, -2, "passes", along)
    made = np.repeat(along, layer.depth_multiplier)
    tracing.use(layer.bias, 0, "passes", made)
    return tracing.activate(layer, place(made, axis, x.ndim))


@rule(L.SeparableConv1D, L.SeparableConv2D)
def convolve_separable(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """A depthwise convolution that passes, then a pointwise one that reads and writes."""
    axis = channel_axis(layer)
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)
    tracing.use(layer.depthwise_kernel, -2, "passes", along)
    tracing.use(layer.pointwise_kernel, -2, "reads", np.repeat(along, layer.depth_multiplier))
    made = tracing.use(layer.pointwise_kernel, -1, "writes")
    tracing.use(layer.bias, 0, "writes", made)
    tracing.count("filters", made)
    return tracing.activate(layer, place(made, axis, x.ndim))


@rule(L.Dense)
def connect_densely(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Read the last axis, write units."""
    tracing.use(layer.kernel, 0, "reads", tracing.on_axis(x, -1))
    made = tracing.use(layer.kernel, 1, "writes")
    tracing.use(layer.bias, 0, "writes", made)
    tracing.count("units", made)
    return tracing.activate(layer, place(made, -1, x.ndim))


@rule(L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
def merge(tracing: Tracing, layer: Any, *inputs: Labels) -> Labels:
    """Position by position: what is added must be removed together."""
    return tracing.space.merge(inputs, tracing.input_shapes)


@rule(L.Concatenate)
def join(tracing: Tracing, layer: Any, *inputs: Labels) -> Labels:
    """Side by side along one axis; channels on another axis are tied."""
    shapes = tracing.input_shapes
    axis = layer.axis % len(tracing.call.inputs[0].shape) - 1
    axes = {a for x in inputs for a in varying_axes(x)}
    if axes - {axis} and axis in axes:
        reason = f"'{tracing.call.path}' joins channels that lie on different axes"
        return tracing.opaque(reason, inputs)[0]
    if axes - {axis}:
        return tracing.space.merge(inputs, tracing.input_shapes)
    return np.concatenate(
        [
            place(tracing.on_axis(x, axis, index), axis, len(shapes[index]))
            for index, x in enumerate(inputs)
        ],
        axis=axis,
    )


@rule(L.Flatten)
def flatten(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """One long axis on which each channel appears once per position."""
    shape = tracing.input_shapes[0]
    if None in shape:
        reason = f"'{tracing.call.path}' flattens an unknown number of positions"
        return tracing.opaque(reason, [x])[0]
    full = np.broadcast_to(x, shape)
    if layer.data_format == "channels_first":
        full = np.moveaxis(full, 0, -1)
    return full.reshape(-1)


@rule(L.Reshape)
def reshape(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Labels move as numbers do; what cannot stay a rectangle is tied."""
    source, target = tracing.input_shapes[0], tracing.output_shapes[0]
    if None in source or None in target:
        reason = f"'{tracing.call.path}' reshapes an unknown number of positions"
        return tracing.opaque(reason, [x])[0]
    moved = tracing.rectangular(np.broadcast_to(x, source).reshape(target))
    for axis in varying_axes(moved):
        if layer.target_shape[axis] != -1:
            tracing.count("target_shape", moved.reshape(-1), axis)
    return moved
