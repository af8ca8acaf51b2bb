"""Orders of axes: how each operation is stated when its tensors lie in another order.

Keras describes an image as `(batch, channels, height, width)` where a layer's `data_format` is
`channels_first`. TensorFlow convolves that on few CPUs and TensorFlow Lite on none, so such models
are rewritten (`edgeprune.loading.data_formats`): tensors move to channels last, and every operation
keeps its meaning. Here stands what that asks of one operation. NumPy and Keras only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import layers

from edgeprune.tracing.graph import Shape
from edgeprune.tracing.keras_internals import array_operations as operations
from edgeprune.tracing.keras_internals import network_operations as nn
from edgeprune.tracing.replica import operations_by_path
from edgeprune.tracing.rules import activations, elementwise
from edgeprune.tracing.rules.registry import ELEMENTWISE_ACTIVATIONS, RULES

FIRST = "channels_first"


@dataclass(frozen=True)
class Layout:
    """The order in which a tensor holds the axes that it is described by.

    Attributes:
        axes: the tensor's axis `i` is axis `axes[i]` of the description; the batch is axis 0.
        flattened: sizes without the batch of the map that was flattened in this order; the tensor
            is described as the same map flattened in its own order.

    Example:
        >>> channels_last(4).axes, channels_last(4).physical(1), channels_last(4).is_plain
        ((0, 2, 3, 1), 3, False)
    """

    axes: tuple[int, ...]
    flattened: tuple[int, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the tensor lies as it is described."""
        return not self.flattened and self.axes == tuple(range(len(self.axes)))

    def physical(self, axis: int) -> int:
        """Return where an axis of the description lies."""
        return self.axes.index(axis % len(self.axes))

    def features(self) -> np.ndarray:
        """Return, for every number of a flattened map, its place in the described order."""
        places = np.arange(int(np.prod(self.flattened))).reshape((1, *self.flattened))
        return places.transpose(self.axes).reshape(-1)


def plain(rank: int) -> Layout:
    """Return the order in which tensors are described."""
    return Layout(tuple(range(rank)))


def channels_last(rank: int, axis: int = 1) -> Layout:
    """Return the order with one axis at the end."""
    return Layout(
        (*(a for a in range(rank) if a != axis), axis) if axis < rank else plain(rank).axes
    )


@dataclass(frozen=True)
class Site:
    """One call, as a rule sees it.

    Attributes:
        operation: what is called.
        given: the order in which each input lies without any work.
        shapes: of the inputs, as described.
        made: shapes of the outputs, as described.
        arguments: of the call that hold no tensors, positional ones by their number.
    """

    operation: Any
    given: tuple[Layout, ...]
    shapes: tuple[Shape, ...]
    made: tuple[Shape, ...]
    arguments: dict[int | str, Any]

    @property
    def moved(self) -> Layout:
        """The first order that is not that of the description."""
        return next((one for one in self.given if not one.is_plain), self.given[0])


@dataclass(frozen=True)
class Placement:
    """What an operation asks for, and what it becomes.

    Attributes:
        takes: the order of each input.
        makes: the order of each output.
        config: entries of its config that change.
        weights: its weights in the new order of axes.
        arguments: arguments of the call that change, constants among them.
        is_view: whether the tensor stays as it lies and is only described in another way.
    """

    takes: tuple[Layout, ...]
    makes: tuple[Layout, ...]
    config: dict[str, Any] = field(default_factory=dict)
    weights: Callable[[list[np.ndarray]], list[np.ndarray]] = list
    arguments: dict[int | str, Any] = field(default_factory=dict)
    is_view: bool = False

    @property
    def is_free(self) -> bool:
        """Whether the operation itself stays as it is, so that each call may be placed anew."""
        return not self.config and self.weights is list


def place_call(site: Site) -> Placement | None:
    """Return how an operation is stated in the order in which its inputs lie; `None` if unknown."""
    kind = type(site.operation)
    if getattr(site.operation, "quantization_mode", None) or not site.given:
        return None
    rule = _RULES.get(kind)
    if rule is not None:
        return rule(site)
    if RULES.get(kind) in (elementwise.combine, activations.pass_elementwise, elementwise.merge):
        return _elementwise(site)
    return None


def place_channels_first(site: Site) -> Placement | None:
    """Return how a `channels_first` operation is stated as `channels_last`; `None` for others."""
    operation = site.operation
    depth = 1
    while isinstance(operation, layers.TimeDistributed | layers.SpectralNormalization):
        depth += isinstance(operation, layers.TimeDistributed)
        operation = operation.layer
    if not is_channels_first(operation) or not type(operation).__module__.startswith("keras."):
        return None
    recurrent = isinstance(operation, layers.RNN)
    rank = len(site.shapes[0])

    def place(shape: Shape) -> Layout:
        axis = depth + recurrent - (rank - len(shape) if recurrent else 0)
        return channels_last(len(shape), axis) if len(shape) > depth + 1 else plain(len(shape))

    others = site.shapes[1:]
    return Placement(
        (place(site.shapes[0]), *(place(s) if recurrent else plain(len(s)) for s in others)),
        tuple(map(place, site.made)),
        _to_channels_last(site.operation.get_config()),
    )


def _to_channels_last(config: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if key == "data_format":
            changed[key] = "channels_last"
        elif key in ("layer", "config") and isinstance(value, dict):
            changed[key] = value | _to_channels_last(value)
            changed[key].pop("build_config", None)
    return changed


def is_channels_first(operation: Any) -> bool:
    """Whether an operation is told that channels lie before positions."""
    passive = (layers.Flatten, layers.Rescaling, layers.STFTSpectrogram)
    return getattr(operation, "data_format", None) == FIRST and not isinstance(operation, passive)


def find_channels_first(model: keras.Model) -> dict[str, keras.Operation]:
    """Return the operations of a model that are told that channels come first, by path."""
    found: dict[str, keras.Operation] = {}
    for path, operation in operations_by_path(model).items():
        parts = [operation]
        if isinstance(operation, keras.Layer):
            parts += operation._flatten_layers(include_self=False)
        if any(map(is_channels_first, parts)):
            found[path] = operation
    return found


@cache
def convolves_channels_first() -> bool:
    """Whether the backend convolves `channels_first` on this machine."""
    image, kernel = np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    try:
        keras.ops.conv(image, kernel, data_format=FIRST)
    except Exception:  # every backend has its own way to say that it cannot
        return False
    return True


def channels_first_problem(model: keras.Model) -> str | None:
    """Say why a model cannot be computed with here, and the way out; `None` if it can."""
    found = [path for path, one in find_channels_first(model).items() if _convolves(one)]
    if not found or convolves_channels_first():
        return None
    return (
        f"Layer '{found[0]}' of model '{model.name}' is channels_first, which "
        f"{keras.backend.backend()} does not convolve on this machine. "
        "edgeprune.load_model(model) returns an equal channels_last model; give that."
    )


def _convolves(operation: Any) -> bool:
    parts = operation._flatten_layers() if isinstance(operation, keras.Layer) else (operation,)
    kinds = (nn.Conv, nn.ConvTranspose, nn.DepthwiseConv, nn.SeparableConv)
    return any(hasattr(part, "kernel_size") or isinstance(part, kinds) for part in parts)


def has_elementwise_activation(operation: Any) -> bool:
    """Whether what follows inside the layer works number by number, in any order of axes."""
    activation = getattr(operation, "activation", None)
    if isinstance(activation, layers.ReLU | layers.LeakyReLU | layers.ELU):
        return True
    name = getattr(activation, "__name__", type(activation).__name__)
    return activation is None or name in ELEMENTWISE_ACTIVATIONS.split()


def _elementwise(site: Site) -> Placement | None:
    layout, rank = site.moved, len(site.made[0])
    noise_shape = getattr(site.operation, "noise_shape", None)
    if not has_elementwise_activation(site.operation) or noise_shape is not None:
        return None
    if type(site.operation).__name__.startswith("SpatialDropout"):
        return None
    if {len(shape) for shape in site.shapes} != {rank}:
        return None
    if layout.flattened and (set(site.given) != {layout} or len(set(site.shapes)) > 1):
        return None
    if not isinstance(site.operation, keras.Layer) and any(
        np.size(value) > 1 for name, value in vars(site.operation).items() if name[0] != "_"
    ):
        return None
    changed: dict[int | str, Any] = {}
    for name, value in site.arguments.items():
        if isinstance(value, keras.Variable):
            return None
        if np.ndim(value):
            if layout.flattened or np.ndim(value) > rank:
                return None
            array = np.asarray(value)
            array = array.reshape((1,) * (rank - array.ndim) + array.shape)
            changed[name] = array.transpose(layout.axes)
    return Placement((layout,) * len(site.given), (layout,), arguments=changed)


def _axes(entry: str = "axis") -> Callable[[Site], Placement | None]:
    """Return the rule of an operation that names axes; its weights lie along them in order."""

    def rule(site: Site) -> Placement | None:
        layout = site.moved
        axes = getattr(site.operation, entry, None)
        if layout.flattened or {len(shape) for shape in site.shapes} != {len(layout.axes)}:
            return None
        if axes is None:
            return None if entry == "axis" else Placement((layout,), (layout,))
        several = isinstance(axes, Collection)
        named = sorted(axis % len(layout.axes) for axis in (axes if several else (axes,)))
        found = [layout.physical(axis) for axis in named]
        order = np.argsort(found)

        def turn(weights: list[np.ndarray]) -> list[np.ndarray]:
            return [w.transpose(order) if w.ndim == len(order) else w for w in weights]

        last = len(layout.axes) - 1
        config = {entry: sorted(found) if several else -1 if found[0] == last else found[0]}
        return Placement((layout,) * len(site.given), (layout,) * len(site.made), config, turn)

    return rule


def _normalization(site: Site) -> Placement | None:
    placement = _axes()(site)
    constants = site.operation.input_mean
    if placement is None or (np.ndim(constants) and len(placement.config["axis"]) > 1):
        return None
    return placement


def _slopes(site: Site) -> Placement | None:
    placement = _axes("shared_axes")(site)
    if placement is None:
        return None
    order = [axis - 1 for axis in placement.takes[0].axes[1:]]
    return replace(placement, weights=lambda weights: [w.transpose(order) for w in weights])


def _reduction(site: Site) -> Placement | None:
    layout, axes = site.moved, site.operation.axis
    if layout.flattened or len(site.given) > 1:
        return None
    rank = len(layout.axes)
    gone = set(range(rank)) if axes is None else {a % rank for a in np.atleast_1d(axes).tolist()}
    config = {"axis": tuple(layout.physical(axis) for axis in sorted(gone))}
    if axes is None or site.operation.keepdims:
        kept = layout if site.operation.keepdims else plain(0)
        return Placement((layout,), (kept,), config if axes is not None else {})
    if 0 in gone:
        return None
    left = [axis for axis in layout.axes if axis not in gone]
    return Placement((layout,), (Layout(tuple(sorted(left).index(a) for a in left)),), config)


def _transposition(site: Site) -> Placement | None:
    """Moving axes takes no work: the tensor stays, and is described in another way."""
    layout, rank = site.given[0], len(site.shapes[0])
    try:
        dims = site.operation.compute_output_spec(keras.KerasTensor(tuple(range(rank)))).shape
    except Exception:  # an operation that does not know its shape yet
        return None
    if layout.flattened or dims[0] != 0:
        return None
    makes = Layout(tuple(dims.index(axis) for axis in layout.axes))
    return Placement((layout,), (makes,), is_view=True)


def _flatten(site: Site) -> Placement | None:
    operation, layout, shape = site.operation, site.moved, site.shapes[0]
    rank = len(shape)
    if getattr(operation, "data_format", None) == FIRST:
        return Placement((channels_last(rank),), (plain(2),), {"data_format": "channels_last"})
    if len(site.made[0]) != 2:
        return _reshape(site)
    if None in shape[1:] or layout.flattened or layout.is_plain:
        return None
    flat = Layout(layout.axes, tuple(size or 0 for size in shape[1:]))
    in_order = bool((flat.features() == np.arange(len(flat.features()))).all())
    return Placement((layout,), (plain(2) if in_order else flat,))


def _reshape(site: Site) -> Placement | None:
    """A vector becomes a map of one position: channels go last at once."""
    made = site.made[0]
    if len(site.shapes[0]) != 2 or not site.given[0].is_plain or len(made) < 3:
        return None
    if not isinstance(site.operation, layers.Reshape) or made[1:] != (
        made[1],
        *(1,) * (len(made) - 2),
    ):
        return None
    config = {"target_shape": (*made[2:], made[1])}
    return Placement((plain(2),), (channels_last(len(made)),), config)


def _dense(site: Site) -> Placement | None:
    layout = site.given[0]
    if not layout.flattened or getattr(site.operation, "lora_enabled", False):
        return None
    order = layout.features()
    return Placement(
        (layout,), (plain(2),), weights=lambda weights: [weights[0][order], *weights[1:]]
    )


def _pad(site: Site) -> Placement | None:
    layout, widths = site.moved, site.operation.pad_width
    if layout.flattened or len(site.given) > 1 or len(widths) != len(layout.axes):
        return None
    return Placement((layout,), (layout,), {"pad_width": tuple(widths[a] for a in layout.axes)})


def _get_item(site: Site) -> Placement | None:
    layout, key = site.moved, site.arguments.get(1, 0)
    keys = list(key) if isinstance(key, tuple | list) else [key]
    if layout.flattened or not all(isinstance(k, slice) for k in keys):
        return None
    keys += [slice(None)] * (len(layout.axes) - len(keys))
    return Placement((layout,), (layout,), arguments={1: tuple(keys[a] for a in layout.axes)})


def _rescaling(site: Site) -> Placement | None:
    layer = site.operation
    return _elementwise(site) if max(np.size(layer.scale), np.size(layer.offset)) == 1 else None


def _operations(names: str, module: Any = operations) -> list[type]:
    return [getattr(module, name) for name in names.split() if hasattr(module, name)]


_RULES: dict[type, Callable[[Site], Placement | None]] = {
    **dict.fromkeys(
        (layers.BatchNormalization, layers.GroupNormalization, layers.LayerNormalization,
         layers.UnitNormalization, layers.Softmax, layers.Concatenate,
         *_operations("Softmax LogSoftmax Sparsemax", nn),
         *_operations("Concatenate Split Flip Cumsum Cumprod")),
        _axes(),
    ),
    **dict.fromkeys(_operations("Mean Max Min Amax Amin Sum Prod Std Var Any All"), _reduction),
    **dict.fromkeys(
        (layers.Permute, *_operations("Transpose Moveaxis Swapaxes")), _transposition
    ),
    **dict.fromkeys((layers.Flatten, layers.Reshape), _flatten),
    layers.Normalization: _normalization,
    layers.PReLU: _slopes,
    layers.Dense: _dense,
    layers.Rescaling: _rescaling,
    operations.Pad: _pad,
    operations.GetItem: _get_item,
}  # fmt: skip
