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
from edgeprune.graph import Graph, build_graph
from edgeprune.labels import NO_LABEL, AxisUse, LabelSpace, Role
from edgeprune.rules import NORMALIZED, Tracing, apply_rule

INPUT = "input of the model"
OUTPUT = "output of the model"


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

    def layers(self, role: Role) -> tuple[str, ...]:
        """Return the paths of the layers with this role, each once."""
        return tuple(dict.fromkeys(m.layer for m in self.members if m.role == role))

    def __str__(self) -> str:
        """Describe the group in one line."""
        state = f"  locked: {'; '.join(self.locked)}" if self.locked else ""
        writers, readers = (", ".join(self.layers(role)) or "-" for role in ("writes", "reads"))
        return f"{self.name}: {self.width} channels, {writers} -> {readers}{state}"


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
    """

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...] = field(repr=False)
    extents: Mapping[tuple[str, str, int | None], Axis] = field(repr=False)
    graph: Graph = field(repr=False)
    output_channels: tuple[Axis, ...] = field(repr=False)
    fingerprint: str

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
    for ref, tensor in zip(graph.inputs, model.inputs, strict=True):
        shape = ref.shape[1:]
        made = space.fresh(shape[-1] or 1 if shape else 1)
        labels[ref.number] = made.reshape((1,) * (len(shape) - 1) + (-1,))
        space.lock(made, f"{INPUT} '{tensor.name}'")
    for call in graph.calls:
        made_labels = apply_rule(Tracing(space, call), [labels[ref.number] for ref in call.inputs])
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
    return _collect(graph, space, outputs)


def _collect(graph: Graph, space: LabelSpace, outputs: list[np.ndarray]) -> Groups:
    """Partition the channels by the places where they are stored."""
    uses = list(space.uses.values())
    per_use = [space.channels(use.labels) for use in uses]
    locked = space.locked()
    places: dict[int, list[int]] = {}
    for number, channels in enumerate(per_use):
        for channel in dict.fromkeys(channels.tolist()):
            if channel != NO_LABEL:
                places.setdefault(channel, []).append(number)
    members_of: dict[tuple[tuple[int, ...], tuple[str, ...]], list[int]] = {}
    for channel, found in places.items():
        members_of.setdefault((tuple(found), locked.get(channel, ())), []).append(channel)

    group_of: dict[int, tuple[int, int]] = {}
    groups: list[Group] = []
    names: dict[str, int] = {}
    for (found, reasons), channels in members_of.items():
        within = {channel: position for position, channel in enumerate(channels)}
        members = tuple(_member(uses[number], per_use[number], within) for number in found)
        for channel, position in within.items():
            group_of[channel] = (len(groups), position)
        writers = [m.layer for m in members if m.role == "writes"]
        name = writers[0] if writers else f"{members[0].layer}:in"
        names[name] = names.get(name, 0) + 1
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        groups.append(Group(unique, len(channels), members, reasons))

    def locate(channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = [group_of.get(channel, (-1, -1)) for channel in channels.ravel().tolist()]
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    axes = tuple(
        Axis(use.layer, use.weight, use.axis, use.role, *locate(channels))
        for use, channels in zip(uses, per_use, strict=True)
    )
    extents = {
        key: Axis(key[0], -1, -1, "passes", *locate(space.channels(labels)))
        for key, labels in space.extents.items()
    }
    ends = tuple(
        Axis("", -1, -1, "passes", *locate(space.channels(labels))) for labels in outputs
    )
    return Groups(tuple(groups), axes, extents, graph, ends, _fingerprint(graph))


def _member(use: AxisUse, channels: np.ndarray, within: Mapping[int, int]) -> Member:
    held = np.array([within.get(channel, -1) for channel in channels.tolist()], dtype=np.int64)
    return Member(use.layer, use.weight, use.axis, use.role, held)


def _fingerprint(graph: Graph) -> str:
    """Hash paths, types and weight shapes: what a plan must agree with to be applicable."""
    text = "\n".join(
        f"{call.path} {type(call.operation).__name__} "
        f"{[tuple(w.shape) for w in getattr(call.operation, 'weights', [])]}"
        for call in graph.calls
    )
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
    if head is None or not set(head.locked) <= {OUTPUT, NORMALIZED} or head.layers("reads"):
        where = head.name if head is not None else "the last layers"
        raise ClassError(
            f"The classes cannot be cut out of this model: its output is not one Dense layer or "
            f"1x1 convolution with one channel per class (found at '{where}'). Expected Dense or "
            "Conv2D, then pooling, Flatten, softmax or nothing."
        )
    return head
