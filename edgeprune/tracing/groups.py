"""Trace a model into groups: channels that live on the same axes of the same weights.

A group has one width to choose. A locked group keeps its width and says why. Printing the groups of
a model is the shortest way to understand what can be removed from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import keras
import numpy as np

from edgeprune.errors import ClassError
from edgeprune.tracing.graph import Graph, build_graph
from edgeprune.tracing.labels import (
    NO_LABEL,
    CallChange,
    ConfigChange,
    LabelSpace,
    Role,
    shorten,
    varying_axes,
)
from edgeprune.tracing.opening import functional_form
from edgeprune.tracing.rules import NORMALIZED, Tracing, apply_rule
from edgeprune.tracing.rules.registry import BATCH
from edgeprune.tracing.vanishing import Vanishing

INPUT = "input of the model"
OUTPUT = "output of the model"
EXAMPLE_SIZE = 64
"""Stands for heights, widths and lengths that a model leaves open, where an operation is tried."""


@dataclass(frozen=True)
class Member:
    """An axis of a weight where channels of a group are stored.

    Attributes:
        layer: path of the layer.
        weight: index into `layer.weights`.
        axis: axis of the weight.
        role: `reads`, `writes` or `passes`.
        channels: `(size of the axis,)`: which channel of the group a position holds, -1 for none.
    """

    layer: str
    weight: int
    axis: int
    role: Role
    channels: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Group:
    """Channels that are stored in the same places.

    Attributes:
        name: the layer that first writes them; `LAYER:in` where no layer does (model inputs).
        width: number of channels.
        members: where they are stored.
        locked: why they must stay; empty if they may go.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    locked: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why the group is locked, shortened to two reasons; empty if it is not."""
        more = f"; and {len(self.locked) - 2} more reasons" if len(self.locked) > 2 else ""
        return "; ".join(self.locked[:2]) + more

    def layers(self, role: Role) -> tuple[str, ...]:
        """Return the paths of the layers with this role, each once."""
        return tuple(dict.fromkeys(m.layer for m in self.members if m.role == role))

    def __str__(self) -> str:
        """Describe the group in one line."""
        state = f"  locked: {self.reason}" if self.locked else ""
        writers, consumers = (", ".join(self.layers(role)) or "-" for role in ("writes", "reads"))
        return f"{self.name}: {self.width} channels, {writers} -> {consumers}{state}"


@dataclass(frozen=True)
class Axis:
    """Which channel of which group each position of a weight's axis holds.

    Attributes:
        layer: path of the layer.
        weight: index into `layer.weights`.
        axis: axis of the weight.
        role: what the layer does with the channels.
        group: `(size,)` index into `Groups`, -1 for positions that belong to none.
        channel: `(size,)` channel within that group.
    """

    layer: str
    weight: int
    axis: int
    role: Role
    group: np.ndarray = field(repr=False, compare=False)
    channel: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Groups:
    """All groups of a model, with the places where they are stored.

    Attributes:
        groups: in the order in which the model makes them.
        axes: every axis of every weight that carries channels.
        extents: `(layer, config entry, position)` -> the axis whose kept size it must hold.
        graph: the calls of the model.
        output_channels: per model output, the group and channel at each of its positions.
        fingerprint: identifies the architecture the groups belong to.
        repeats: path of a layer -> channels for each of which it does its work.
        config_changes: path of a layer -> what adapts the rest of its config.
        call_changes: (path, which of its calls) -> what adapts the arguments of the call.
        placement: group and channel of every label.
        tensors: number of a tensor -> the channels that it holds along the axis where they vary.
    """

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...] = field(repr=False)
    extents: Mapping[tuple[str, str, int | None], Axis] = field(repr=False)
    graph: Graph = field(repr=False)
    output_channels: tuple[Axis, ...] = field(repr=False)
    fingerprint: str
    repeats: Mapping[str, Axis] = field(repr=False, default_factory=dict)
    config_changes: Mapping[str, ConfigChange] = field(repr=False, default_factory=dict)
    call_changes: Mapping[tuple[str, int], CallChange] = field(repr=False, default_factory=dict)
    placement: tuple[np.ndarray, np.ndarray] = field(
        repr=False, compare=False, default=(np.empty(0, np.int64), np.empty(0, np.int64))
    )
    tensors: Mapping[int, Axis] = field(repr=False, compare=False, default_factory=dict)

    def locate(self, labels: np.ndarray) -> Axis:
        """Return the group and channel of each label of an array."""
        group, channel = (np.append(found, -1)[labels.reshape(-1)] for found in self.placement)
        return Axis("", -1, -1, "passes", group, channel)

    def __iter__(self) -> Iterator[Group]:
        """Iterate over the groups."""
        return iter(self.groups)

    def __len__(self) -> int:
        """Count the groups."""
        return len(self.groups)

    def __getitem__(self, name: str) -> Group:
        """Return a group by name."""
        return self.groups[self.index[name]]

    def __contains__(self, name: object) -> bool:
        """Whether a group of this name exists."""
        return name in self.index

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each group, by name."""
        return {group.name: position for position, group in enumerate(self.groups)}

    @cached_property
    def vanishing(self) -> Vanishing:
        """What is no longer computed when groups keep no channel."""
        return Vanishing(self)

    @property
    def removable(self) -> tuple[Group, ...]:
        """The groups that are not locked."""
        return tuple(group for group in self.groups if not group.locked)

    def __str__(self) -> str:
        """One line per group."""
        return "\n".join(map(str, self.groups))


def find_groups(model: keras.Model) -> Groups:
    """Trace a model: which channels belong together, where they are stored, which may go.

    Args:
        model: a Functional or Sequential model, nested models included. It is not changed.

    Returns:
        The groups, removable and locked ones.

    Raises:
        ModelError: the model has no functional graph.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)),
        ...     keras.layers.Conv2D(4, 3, name="conv"),
        ...     keras.layers.GlobalAveragePooling2D(),
        ...     keras.layers.Dense(2, name="head"),
        ... ])
        >>> print(find_groups(model)["conv"])
        conv: 4 channels, conv -> head
    """
    graph = build_graph(model)
    space = LabelSpace()
    labels: dict[int, np.ndarray] = {}
    sizes: dict[int, tuple[int, ...]] = {}
    for ref, tensor in zip(graph.inputs, functional_form(model).inputs, strict=True):
        shape = ref.shape[1:]
        made = space.fresh(shape[-1] or 1 if shape else 1)
        labels[ref.number] = made.reshape((1,) * (len(shape) - 1) + (-1,) if shape else ())
        space.lock(made, f"{INPUT} '{tensor.name}'")
        if None in shape:
            sizes[ref.number] = (BATCH, *(size or EXAMPLE_SIZE for size in shape))
    for call in graph.calls:
        given = [labels[ref.number] for ref in call.inputs]
        made_labels = apply_rule(Tracing(space, call, sizes), given)
        labels.update(zip((ref.number for ref in call.outputs), made_labels, strict=True))
    for entrances in graph.entrances:
        for other in entrances[1:]:
            space.merge(
                [labels[entrances[0].number], labels[other.number]],
                [entrances[0].shape[1:], other.shape[1:]],
            )
    outputs = [labels[ref.number] for ref in graph.outputs]
    for made in outputs:
        space.lock(made, OUTPUT)
    return _collect(graph, space, outputs, labels)


def _collect(
    graph: Graph, space: LabelSpace, outputs: list[np.ndarray], labels_of: dict[int, np.ndarray]
) -> Groups:
    """Partition the channels by the places where they are stored."""
    uses = list(space.uses.values())
    held = [space.channels(use.labels) for use in uses]
    locks = space.locks()
    tensors = [space.channels(labels) for labels in space.tensors]
    numbers = space.channels(np.arange(len(space)))
    count = int(numbers.max(initial=-1)) + 1
    parts = split_by_place(count, [*held, *tensors, *(channels for channels, _ in locks)])
    group_of, channel_of, first = number_groups(count, held, parts)

    reasons: list[dict[str, None]] = [{} for _ in first]
    for channels, reason in locks:
        for number in np.unique(group_of[channels]).tolist():
            if number >= 0:
                reasons[number][reason] = None
    members: list[list[Member]] = [[] for _ in first]
    for use, channels in zip(uses, held, strict=True):
        owner, channel = np.append(group_of, -1)[channels], np.append(channel_of, -1)[channels]
        for number in np.unique(owner[owner >= 0]).tolist():
            within = np.where(owner == number, channel, -1)
            members[number].append(Member(use.layer, use.weight, use.axis, use.role, within))
    widths = np.bincount(group_of[group_of >= 0], minlength=len(first))
    names = _name(members)
    groups = tuple(
        Group(name, int(width), tuple(found), tuple(why))
        for name, width, found, why in zip(names, widths, members, reasons, strict=True)
    )

    def locate(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        channels = space.channels(labels.reshape(-1))
        return np.append(group_of, -1)[channels], np.append(channel_of, -1)[channels]

    return Groups(
        groups,
        tuple(Axis(use.layer, use.weight, use.axis, use.role, *locate(use.labels)) for use in uses),
        {
            key: Axis(key[0], -1, -1, "passes", *locate(labels))
            for key, labels in space.extents.items()
        },
        graph,
        tuple(
            Axis("", -1, -1, "passes", *locate(_along(labels, ref.shape)))
            for labels, ref in zip(outputs, graph.outputs, strict=True)
        ),
        _fingerprint(graph),
        {
            path: Axis(path, -1, -1, "passes", *locate(labels))
            for path, labels in space.repeats.items()
        },
        space.config_changes,
        space.call_changes,
        (group_of[numbers], channel_of[numbers]),
        {
            number: Axis("", -1, -1, "passes", *locate(shorten(labels)))
            for number, labels in labels_of.items()
        },
    )


def _name(members: list[list[Member]]) -> list[str]:
    """Name groups after their first writer, each name once."""
    names: dict[str, int] = {}
    unique = []
    for found in members:
        writers = [member.layer for member in found if member.role == "writes"]
        name = writers[0] if writers else f"{found[0].layer}:in"
        names[name] = names.get(name, 0) + 1
        unique.append(name if names[name] == 1 else f"{name}#{names[name]}")
    return unique


def _along(labels: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return the labels of a tensor along the axis that holds them, the last if there is none."""
    axes = varying_axes(labels)
    if axes or labels.ndim == 0:
        return labels.reshape(-1)
    return np.repeat(labels.reshape(-1), shape[-1] or 1)


def _fingerprint(graph: Graph) -> str:
    """Hash types, weight shapes and paths of weights: what a plan must agree with to be applicable.

    Operations without weights are numbered anew when a subclassed model is opened.
    """
    lines = []
    for call in graph.calls:
        shapes = [tuple(weight.shape) for weight in getattr(call.operation, "weights", [])]
        name = call.path if shapes else ""
        lines.append(f"{name} {type(call.operation).__name__} {shapes}")
    text = "\n".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_head(groups: Groups) -> Group:
    """Return the group that holds the classes of a classifier: the channels of its only output.

    Raises:
        ClassError: there are several outputs, or the classes are used inside the model.
    """
    if len(groups.output_channels) != 1:
        raise ClassError(
            f"The model has {len(groups.output_channels)} outputs; a specialist needs exactly one, "
            "with one value per class. Cut the model to its classifying output first."
        )
    found = np.unique(groups.output_channels[0].group)
    head = groups.groups[found[0]] if found.size == 1 and found[0] >= 0 else None
    if (
        head is None
        or not set(head.locked) <= {OUTPUT, NORMALIZED}
        or head.layers("reads")
        or groups.output_channels[0].channel.size != head.width
    ):
        where = head.name if head is not None else "the last layers"
        raise ClassError(
            f"The classes cannot be cut out of this model: its output is not one Dense layer or "
            f"1x1 convolution with one channel per class (found at '{where}'). Expected Dense or "
            "Conv2D, then pooling, Flatten, softmax or nothing."
        )
    return head


def split_by_place(count: int, places: list[np.ndarray]) -> np.ndarray:
    """Return for each of `count` channels a number that is equal for those in the same places.

    Each place splits the parts found so far; how often it holds a channel counts.
    """
    parts = np.zeros(count, np.int64)
    free = 1
    for place in places:
        channels, often = np.unique(place[place != NO_LABEL], return_counts=True)
        pairs = parts[channels] * (often.max(initial=0) + 1) + often
        _, inverse = np.unique(pairs, return_inverse=True)
        parts[channels] = free + inverse
        free += len(channels)
    return parts


def number_groups(
    count: int, held: list[np.ndarray], parts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Number the parts that are stored somewhere, and the channels in them, as they are met.

    Returns:
        Group of each channel (-1 for none), channel within its group, first channel of each group.
    """
    met = np.concatenate(held) if held else np.empty(0, np.int64)
    met, index = np.unique(met[met != NO_LABEL], return_index=True)
    met = met[np.argsort(index)]
    group_of, channel_of = np.full(count, -1), np.full(count, -1)
    number_of: dict[int, int] = {}
    widths: list[int] = []
    first: list[int] = []
    for channel, part in zip(met.tolist(), parts[met].tolist(), strict=True):
        number = number_of.setdefault(part, len(number_of))
        if number == len(widths):
            widths.append(0)
            first.append(channel)
        group_of[channel], channel_of[channel] = number, widths[number]
        widths[number] += 1
    return group_of, channel_of, first
