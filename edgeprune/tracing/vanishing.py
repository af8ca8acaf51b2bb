"""Width zero: what is no longer computed when groups keep no channel at all.

A layer that reads none of its channels any more gives a constant. Where constants are added to,
multiplied with or joined to something that still depends on the input, the branch that they come
from is gone with all its layers; where nothing would be left to depend on the input, the groups
must stay. Other groups go along: those that only the branch needs, and those that only a constant
would feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from keras import layers

from edgeprune.errors import PlanError
from edgeprune.tracing.graph import Call, Graph, TensorRef

if TYPE_CHECKING:
    from edgeprune.tracing.groups import Groups

READING = (
    layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose,
    layers.Conv2DTranspose, layers.Conv3DTranspose, layers.SeparableConv1D, layers.SeparableConv2D,
)  # fmt: skip
"""Layers that give their bias, the same at every place, when they read no channel."""
PASSING = frozenset(
    """Activation ReLU LeakyReLU PReLU ELU BatchNormalization Dropout SpatialDropout1D
    SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout ActivityRegularization Identity
    StochasticDepth Rescaling GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D
    GlobalMaxPooling2D AveragePooling1D AveragePooling2D MaxPooling1D MaxPooling2D UpSampling1D
    UpSampling2D LayerScale Relu Relu6 Sigmoid Silu Tanh HardSigmoid HardSilu Elu Gelu LeakyRelu
    Softplus Mean Add Multiply""".split()
)
"""Operations, by class, that give one value per channel when they are given one."""


class State(Enum):
    """What a tensor of the pruned model is."""

    LIVE = "depends on the input"
    CONSTANT = "is the same for every input"
    EMPTY = "has no channel"


@dataclass(frozen=True)
class Vanished:
    """What is left when some groups have no channel.

    Attributes:
        groups: names of the groups without channels, those that go along included.
        computed: numbers of the tensors that are still computed.
        missed: names of those groups whose consumers are still there, or leave a constant.
        constants: numbers of the tensors that are the same for every input.
        remaining: (path, which of its calls) -> which of its inputs stay, for calls that lose some.
    """

    groups: frozenset[str] = frozenset()
    computed: frozenset[int] = frozenset()
    missed: frozenset[str] = frozenset()
    constants: frozenset[int] = frozenset()
    remaining: Mapping[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)

    def find_gone(self, graph: Graph) -> frozenset[str]:
        """Return the paths of operations that are not called any more."""
        if not self.groups:
            return frozenset()
        made = {
            call.path
            for call in graph.calls
            if any(ref.number in self.computed for ref in call.outputs)
        }
        return frozenset(call.path for call in graph.calls) - made

    def find_constants(self, graph: Graph) -> list[TensorRef]:
        """Return what calls make that lose constants: something must make up for those.

        Of the runs of a nested model one counts.
        """
        found = {
            (call.path, call.position): call.outputs[0]
            for call in graph.calls
            if call.outputs[0].number in self.computed
            and any(ref.number in self.constants for ref in call.inputs)
        }
        return list(found.values())


class StaysError(PlanError):
    """Why groups cannot lose all their channels."""


class Vanishing:
    """Says of any groups of a model what would vanish with them.

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> x = keras.Input((4,))
        >>> y = keras.layers.Dense(4, name="end")(keras.layers.Dense(8, name="inner")(x))
        >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(keras.layers.add([x, y])))
        >>> sorted(find_groups(model).vanishing.close({"inner"}).groups)
        ['inner']
    """

    def __init__(self, groups: Groups) -> None:
        """Look up what each tensor holds and who reads each group.

        Args:
            groups: of the model.
        """
        self._groups = groups
        self._calls = groups.graph.calls
        self._held = {
            number: frozenset(axis.group.tolist()) for number, axis in groups.tensors.items()
        }
        self._readers: dict[str, set[int]] = {}
        for axis in groups.axes:
            if axis.role == "reads":
                found = self._readers.setdefault(axis.layer, set())
                found.update(number for number in set(axis.group.tolist()) if number >= 0)
        self._known: dict[frozenset[str], Vanished | StaysError] = {}

    def close(self, names: Iterable[str]) -> Vanished:
        """Return what vanishes when these groups have no channel.

        Args:
            names: of groups.

        Raises:
            StaysError: they cannot; the message says why.
        """
        asked = frozenset(names)
        if asked not in self._known:
            try:
                self._known[asked] = self._close(asked)
            except StaysError as reason:
                self._known[asked] = reason
        found = self._known[asked]
        if isinstance(found, StaysError):
            raise StaysError(str(found))
        return found

    @cached_property
    def branches(self) -> dict[str, Vanished]:
        """What vanishes with each group that may, by its name."""
        found = {}
        for group in self._groups.removable:
            try:
                found[group.name] = self.close({group.name})
            except StaysError:
                continue
        return found

    def explain(self, name: str) -> str:
        """Return why a group cannot lose all its channels; empty if it can."""
        try:
            self.close({name})
        except StaysError as reason:
            return str(reason)
        return ""

    def _close(self, asked: frozenset[str]) -> Vanished:
        groups = self._groups
        for name in sorted(asked):
            if groups[name].locked:
                raise StaysError(f"Group '{name}' cannot shrink: {'; '.join(groups[name].locked)}")
        gone = {groups.index[name] for name in asked}
        if not gone:
            return Vanished(computed=frozenset(groups.tensors))
        while True:
            run = _Run(self._calls, self._held, self._readers, gone)
            run.follow(groups.graph.inputs)
            computed = self._find_computed(run.states, run.remaining)
            more = {number for number in run.fed - gone if not groups.groups[number].locked}
            more |= self._find_useless(gone, computed)
            if not more:
                break
            gone |= more
        self._check(run, gone, computed)
        names, missed = (
            frozenset(groups.groups[number].name for number in found)
            for found in (gone, gone & run.read)
        )
        constants = frozenset(n for n, state in run.states.items() if state is State.CONSTANT)
        return Vanished(names, computed, missed, constants, run.remaining)

    def _find_computed(
        self, states: dict[int, State], remaining: dict[tuple[str, int], tuple[int, ...]]
    ) -> frozenset[int]:
        """Return the tensors that the outputs depend on."""
        needed = {ref.number for ref in self._groups.graph.outputs} | self._unused
        for call in reversed(self._calls):
            if not any(
                ref.number in needed and states[ref.number] is State.LIVE for ref in call.outputs
            ):
                continue
            stay = remaining.get((call.path, call.position), range(len(call.inputs)))
            needed.update(call.inputs[index].number for index in stay)
        return frozenset(number for number in needed if states[number] is State.LIVE)

    @cached_property
    def _unused(self) -> frozenset[int]:
        """Tensors that nothing takes, in the whole model already: they stay as they are."""
        taken = {ref.number for call in self._calls for ref in call.inputs}
        return frozenset(self._groups.tensors) - taken

    def _find_useless(self, gone: set[int], computed: frozenset[int]) -> set[int]:
        """Return the groups that may shrink and that nothing holds any more that is computed."""
        used = {number for tensor in computed for number in self._held[tensor]}
        return {
            number
            for number, group in enumerate(self._groups.groups)
            if number not in used | gone and not group.locked and group.name in self._touched
        }

    @cached_property
    def _touched(self) -> frozenset[str]:
        """Names of the groups that some tensor holds."""
        held = {number for found in self._held.values() for number in found if number >= 0}
        return frozenset(self._groups.groups[number].name for number in held)

    def _check(self, run: _Run, gone: set[int], computed: frozenset[int]) -> None:
        """Refuse what would cut a path from an input to an output, or cannot be taken out.

        Raises:
            StaysError: that is so.
        """
        graph = self._groups.graph
        if any(run.states[ref.number] is not State.LIVE for ref in graph.outputs):
            raise StaysError("nothing of the input would reach an output of the model")
        for ref in graph.inputs:
            if ref.number in self._useful_inputs and ref.number not in computed:
                raise StaysError("an input of the model would not be used any more")
        if run.problems:
            raise StaysError(run.problems[0])
        self._check_layers(gone, computed)
        self._check_repetitions(computed)
        self._check_borders(computed)

    @cached_property
    def _useful_inputs(self) -> frozenset[int]:
        """Inputs that the outputs of the whole model depend on."""
        states = dict.fromkeys(self._groups.tensors, State.LIVE)
        return self._find_computed(states, {})

    def _check_layers(self, gone: set[int], computed: frozenset[int]) -> None:
        """Refuse to leave a layer with nothing along an axis, such as heads without values.

        Raises:
            StaysError: that would happen.
        """
        alive = {
            call.path for call in self._calls if any(ref.number in computed for ref in call.outputs)
        }
        sizes = (*self._groups.axes, *self._groups.extents.values())
        for axis in (found for found in sizes if found.layer in alive and found.group.size):
            if set(axis.group.tolist()) <= gone:
                raise StaysError(f"'{axis.layer}' would have nothing left inside")

    def _check_repetitions(self, computed: frozenset[int]) -> None:
        """Refuse to take a call out of one run of a nested model and not of the others.

        Raises:
            StaysError: that would happen.
        """
        stays: dict[tuple[str, int], bool] = {}
        for call in self._calls:
            made = any(ref.number in computed for ref in call.outputs)
            if stays.setdefault((call.path, call.position), made) != made:
                raise StaysError(
                    f"'{call.path}' is needed by another call of the model that it is in"
                )

    def _check_borders(self, computed: frozenset[int]) -> None:
        """Refuse to leave a nested model without one of its inputs or outputs.

        Raises:
            StaysError: that would happen.
        """
        alive = {
            prefix
            for call in self._calls
            if any(ref.number in computed for ref in call.outputs)
            for prefix in _prefixes(call.path)
        }
        maker = {ref.number: call.path for call in self._calls for ref in call.outputs}
        for call in self._calls:
            for ref in call.inputs:
                if ref.number in computed:
                    continue
                crossed = set(_prefixes(call.path)) ^ set(_prefixes(maker.get(ref.number, "")))
                if crossed & alive:
                    name = sorted(crossed & alive)[0]
                    raise StaysError(f"the model '{name}' inside would lose an input or an output")


class _Run:
    """The calls of a model once over, with some groups gone.

    Attributes:
        states: number of a tensor -> what it is.
        remaining: see `Vanished`.
        fed: groups that are read as constants only.
        read: groups that a layer reads, or would read, whose output has channels.
        problems: why some call cannot do with what it is given.
    """

    def __init__(
        self,
        calls: tuple[Call, ...],
        held: dict[int, frozenset[int]],
        readers: dict[str, set[int]],
        gone: set[int],
    ) -> None:
        self._calls, self._held, self._readers, self._gone = calls, held, readers, gone
        self.states: dict[int, State] = {}
        self.remaining: dict[tuple[str, int], tuple[int, ...]] = {}
        self.fed: set[int] = set()
        self.read: set[int] = set()
        self.problems: list[str] = []

    def follow(self, inputs: Iterable[TensorRef]) -> None:
        """Work out what every tensor is, from the inputs on."""
        self.states.update(dict.fromkeys((ref.number for ref in inputs), State.LIVE))
        live: set[int] = set()
        dead: set[int] = set()
        for call in self._calls:
            outputs = [ref.number for ref in call.outputs]
            touched = any(ref.number in dead for ref in call.inputs)
            empty = [self._is_empty(number) for number in outputs]
            if all(empty):
                self.states.update(dict.fromkeys(outputs, State.EMPTY))
                dead.update(outputs)
                continue
            if any(empty):
                self.problems.append(f"'{call.path}' makes several tensors, some without channels")
            state = State.LIVE
            given = [self.states[ref.number] for ref in call.inputs] if touched else []
            if touched:
                state = self._find_state(call, given)
            if touched and state is State.LIVE:
                stay = tuple(i for i, found in enumerate(given) if found is State.LIVE)
                self.remaining[call.path, call.position] = stay
            if state is State.CONSTANT:
                dead.update(outputs)
            self.states.update(dict.fromkeys(outputs, state))
            if readers := self._readers.get(call.path):
                self.read |= readers
                if State.CONSTANT in given:
                    self.fed |= readers
                else:
                    live |= readers
        self.fed -= live

    def _is_empty(self, number: int) -> bool:
        held = self._held[number]
        return bool(held) and held <= self._gone

    def _find_state(self, call: Call, given: list[State]) -> State:
        """Return what a call makes that has channels."""
        operation: Any = call.operation
        kinds, name = set(given), type(operation).__name__
        if kinds <= {State.LIVE}:
            return State.LIVE
        if State.LIVE not in kinds:
            reads_nothing = kinds == {State.EMPTY} and isinstance(operation, READING)
            if not (reads_nothing and _has_channels_last(operation)) and not (
                kinds == {State.CONSTANT} and name in PASSING
            ):
                self.problems.append(f"nothing but constants would reach '{call.path}'")
            return State.CONSTANT
        joins = name == "Concatenate" and kinds == {State.LIVE, State.EMPTY}
        alone = given.count(State.LIVE) == 1
        merges = name == "Add" or (name == "Multiply" and alone)
        merges = merges and kinds == {State.LIVE, State.CONSTANT}
        whole = all(
            ref.shape == call.outputs[0].shape
            for ref, state in zip(call.inputs, given, strict=True)
            if state is State.LIVE
        )
        if not (joins or (merges and whole)):
            self.problems.append(f"'{call.path}' ({name}) needs all that it is given")
        return State.LIVE


def _has_channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", None) != "channels_first"


def _prefixes(path: str) -> Iterator[str]:
    """Yield the paths of the nested models around an operation."""
    parts = path.split("/")[:-1]
    for length in range(1, len(parts) + 1):
        yield "/".join(parts[:length])


def find_handed_on(graph: Graph, vanished: Vanished) -> frozenset[int]:
    """Return the tensors that equal others once the additions of constants are left out.

    So are sums and joined tensors of which one part is left, and a ReLU of what a ReLU made.

    Args:
        graph: of the whole model.
        vanished: what is gone.

    Returns:
        Their numbers.
    """
    made_by = {ref.number: call for call in graph.calls for ref in call.outputs}
    stands_for: dict[int, int] = {}
    for call in graph.calls:
        if call.outputs[0].number not in vanished.computed:
            continue
        stay = vanished.remaining.get((call.path, call.position), range(len(call.inputs)))
        if len(stay) != 1:
            continue
        number = call.inputs[stay[0]].number
        origin = stands_for.get(number, number)
        lost = len(stay) < len(call.inputs) and type(call.operation).__name__ != "Multiply"
        again = number in stands_for and is_relu(call) and origin in made_by
        if lost or (again and is_relu(made_by[origin])):
            stands_for[call.outputs[0].number] = origin
    return frozenset(stands_for)


def is_relu(call: Call) -> bool:
    """Whether a call ends in the plain ReLU, which changes nothing when it is applied twice."""
    operation: Any = call.operation
    if isinstance(operation, layers.ReLU):
        whole = not operation.negative_slope and not operation.threshold
        return whole and operation.max_value is None
    if type(operation).__name__ == "Relu":
        return True
    return getattr(getattr(operation, "activation", None), "__name__", "") == "relu"
