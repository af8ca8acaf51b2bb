"""Sequential refit: solve each consumer's kernel anew, front to back, without gradients.

Inputs come from the already recovered prefix of the pruned model, targets from the original model
on the same samples: `min ||X_original W - X_slim W'||^2` over sampled patches, so errors of earlier
layers are seen and corrected by later ones. Ours; it continues He, Zhang, Sun, "Channel Pruning for
Accelerating Very Deep Neural Networks" (2017), and takes from Zhang et al., "Accelerating Very Deep
Convolutional Networks" (2015), that what a ReLU sets to zero anyway need not be matched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from edgeprune.recovery.alignment import Counterpart, align
from edgeprune.recovery.batches import Values, execute, make_batches, release
from edgeprune.recovery.depthwise import Depthwise, find_depthwise, fit_depthwise
from edgeprune.recovery.equations import Equations
from edgeprune.recovery.intercepts import add_constant, give_biases
from edgeprune.recovery.matching import Sample, home, join, knows, match, scale_and_shift
from edgeprune.scoring.consumer_kinds import (
    assign_kernel,
    count_places,
    kernel_matrix,
    take_windows,
)
from edgeprune.scoring.consumers import Consumer, find_consumers
from edgeprune.scoring.destinations import Destination
from edgeprune.support.progress import stage
from edgeprune.surgery.channel_removal import channel_ranks, kept_positions
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.graph import Call
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.replica import operations_by_path

RIDGE = 1e-3
ROWS = 24576
MOST_NUMBERS = 2**25
"""Numbers in the patches of one layer: wide kernels are solved at fewer places."""

Pair = tuple[Values, Values]
Refitted = Consumer | Depthwise


@full_float32()
def refit(
    smaller: keras.Model,
    groups: Groups,
    plan: Plan,
    inputs: np.ndarray,
    *,
    ridge: float = RIDGE,
    seed: int = 0,
) -> keras.Model:
    """Return the pruned model with the kernels of its consumers solved again, front to back.

    Layers before the first removed channel stay as they are. A layer that is called several times
    is solved for all its calls together, before the first of them. Memory is bounded: wide kernels
    are solved at fewer places, by the smaller of the two normal systems.

    Args:
        smaller: `remove_channels(model, plan)` or a fold of it; not changed.
        groups: of the original, which is in their graph.
        plan: what was kept.
        inputs: `(n, ...)` preprocessed calibration samples; fewer are used where their feature
            maps would take more than 512 MB.
        ridge: pull towards the kernel as it is, as a fraction of the mean diagonal. At full width
            the kernel as it is fits exactly, so the refit returns the original.
        seed: of the choice of positions.

    Returns:
        A new model of the same size; a consumer without bias and BatchNorm behind it has one more.

    Example:
        >>> from edgeprune.tracing.groups import find_groups
        >>> from edgeprune.surgery.channel_removal import remove_channels
        >>> keras.utils.set_random_seed(0)
        >>> model = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
        >>> groups, plan = find_groups(model), Plan({"hidden": (0, 3)})
        >>> inputs = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
        >>> smaller = remove_channels(model, plan)
        >>> def error(found): return float(np.abs(found(inputs) - model(inputs)).max())
        >>> error(refit(smaller, groups, plan, inputs)) < 0.1 * error(smaller)
        True
    """
    ranks = channel_ranks(groups, plan)
    there = operations_by_path(smaller)
    layers = [layer for layer in _find_affected(groups, ranks) if layer.path in there]
    result = give_biases(smaller, layers)
    batches = make_batches(groups.graph, inputs, models=2)
    with stage("refit", len(groups.graph.calls)) as advance:
        counterparts = align(groups, groups.vanishing.close(plan.emptied), result)
        lockstep = _Lockstep(groups, ranks, counterparts, operations_by_path(result), ridge, seed)
        lockstep.run({layer.path: layer for layer in layers}, batches, advance)
    return result


def _find_affected(groups: Groups, ranks: list[np.ndarray]) -> list[Refitted]:
    """Return the layers that lose channels they read, or see what such layers make."""
    shrunk = _find_shrunk(groups, ranks)
    changed: set[int] = set()
    affected = set()
    for call in groups.graph.calls:
        if call.path in shrunk or any(ref.number in changed for ref in call.inputs):
            affected.add(call.path)
            changed.update(ref.number for ref in call.outputs)
    consumers = [_land_alone(r) for r in find_consumers(groups) if r.path in affected]
    return [*consumers, *(layer for layer in find_depthwise(groups) if layer.path in affected)]


def _find_shrunk(groups: Groups, ranks: list[np.ndarray]) -> set[str]:
    """Return the paths of layers that read fewer channels than before."""
    return {
        axis.layer
        for axis in groups.axes
        if axis.role == "reads" and len(kept_positions(axis, ranks)) < axis.group.size
    }


def _land_alone(consumer: Consumer) -> Consumer:
    """Let a layer that is called several times be judged on its own output at all its calls."""
    if not consumer.shared:
        return consumer
    rectified = getattr(consumer.layer.activation, "__name__", "") == "relu"
    return replace(consumer, destination=Destination(None, rectified))


class _Lockstep:
    """Runs the original and the pruned model call by call on the same samples."""

    def __init__(
        self,
        groups: Groups,
        ranks: list[np.ndarray],
        counterparts: Sequence[Counterpart],
        operations: Mapping[str, Any],
        ridge: float,
        seed: int,
    ) -> None:
        self.graph = groups.graph
        self.counterparts = counterparts
        self.ranks = ranks
        self.operations = operations
        self.ridge = ridge
        self.generator = np.random.default_rng(seed)

    def run(
        self, layers: Mapping[str, Refitted], batches: Sequence[Any], advance: Callable[[], None]
    ) -> None:
        """Refit every layer when its turn comes."""
        original = self.graph
        last = original.last_uses()
        waiting = dict(layers)
        number = original.inputs[0].number
        values: list[Pair] = [({number: batch}, {number: batch}) for batch in batches]
        for index, call in enumerate(original.calls):
            layer = waiting.pop(call.path, None)
            if isinstance(layer, Depthwise):
                self._refit_depthwise(layer, values)
            elif layer is not None:
                self._refit(layer, self._sample_calls(layer, index, values))
            for before, after in values:
                execute(call, before)
                self.counterparts[index].run(after)
            release(call, index, last, [held for pair in values for held in pair])
            advance()

    def _refit(self, consumer: Consumer, sample: tuple[Sample, bool]) -> None:
        """Find the kernel and the constant that bring a consumer closest to the original."""
        (patches, found, wanted), whole = sample
        layer, normalization = self._slim_layers(consumer)
        kernel = kernel_matrix(layer)
        scale, _ = scale_and_shift(normalization, kernel.shape[-1])
        rectified = consumer.destination.rectified and whole
        blocks = patches.shape[-1] // kernel.shape[1]  # channel groups of the convolution
        change, constant = np.empty_like(kernel), np.empty(kernel.shape[-1])
        for x, outputs in zip(
            np.split(patches, blocks, axis=-1),
            np.split(np.arange(kernel.shape[-1]), blocks),
            strict=True,
        ):
            solved, constant[outputs] = Equations(
                x.reshape(len(x), -1), found[:, outputs], wanted[:, outputs], scale[outputs]
            ).solve(ridge=self.ridge, rectified=rectified)
            change[:, :, outputs] = solved.reshape(*kernel.shape[:2], -1)
        assign_kernel(layer, kernel + change)
        add_constant(self.operations, consumer, constant)

    def _slim_layers(self, layer: Refitted) -> tuple[Any, Any]:
        """Return a layer and the BatchNormalization behind it in the pruned model."""
        normalization = layer.destination.normalization
        return self.operations[layer.path], (
            None if normalization is None else self.operations[normalization.path]
        )

    def _sample_calls(
        self, consumer: Consumer, index: int, values: Sequence[Pair]
    ) -> tuple[Sample, bool]:
        """Return samples of all calls of a consumer, the next of which has this index.

        To see the later ones, both models run on as they are now. The second result says whether
        all that is added to its output was known.
        """
        graph = self.graph
        calls = [i for i, call in enumerate(graph.calls) if call.path == consumer.path]
        count = _count_rows(kernel_matrix(self.operations[consumer.path])) // len(calls)
        share = max(count // len(values), 1)
        samples, whole = [], True
        for before, after in values:
            whole = whole and knows(consumer.destination, before, after)
            ahead = dict(before), dict(after)
            for number in range(index, calls[-1] + 1):
                if number in calls:
                    samples.append(self._sample(consumer, graph.calls[number], ahead, share))
                if number < calls[-1]:
                    execute(graph.calls[number], ahead[0])
                    self.counterparts[number].run(ahead[1])
        return join(samples), whole

    def _sample(self, consumer: Consumer, call: Call, values: Pair, count: int) -> Sample:
        """Match a consumer with the original at some places of one batch."""
        before, after = values
        number = call.inputs[0].number
        layer, normalization = self._slim_layers(consumer)
        kept = kept_positions(consumer.outputs, self.ranks)
        places = self._choose(count_places(consumer.layer, before[number]), count)
        seen = (before[number], before), (after[number], after)
        return match(consumer, layer, normalization, kept, *seen, places)

    def _choose(self, total: int, count: int) -> np.ndarray:
        return self.generator.choice(total, min(total, count), replace=False)

    def _refit_depthwise(self, depthwise: Depthwise, values: Sequence[Pair]) -> None:
        """Find the taps and the constant of every channel that are closest to the original."""
        layer, normalization = self._slim_layers(depthwise)
        number = depthwise.call.inputs[0].number
        kept = kept_positions(depthwise.axis, self.ranks)
        share = max(_count_rows(home(layer.kernel)) // len(values), 1)
        seen: list[np.ndarray] = []
        found: list[np.ndarray] = []
        for before, after in values:
            places = self._choose(count_places(layer, after[number]), share)
            seen.append(home(take_windows(depthwise.layer, before[number], places)))
            found.append(home(take_windows(layer, after[number], places)))
        change = fit_depthwise(
            depthwise.layer, layer, np.concatenate(seen), np.concatenate(found), kept,
            *scale_and_shift(normalization, len(kept)),
            ridge=self.ridge,
            rectified=depthwise.destination.rectified and not depthwise.destination.added,
        )  # fmt: skip
        kernel = home(layer.kernel)
        layer.kernel.assign(kernel + change[:-1].reshape(kernel.shape))
        add_constant(self.operations, depthwise, change[-1])


def _count_rows(kernel: np.ndarray) -> int:
    """Return at how many places a kernel is solved: taps and channels are its first axes."""
    return min(ROWS, max(1, MOST_NUMBERS // int(np.prod(kernel.shape[:-1]))))
