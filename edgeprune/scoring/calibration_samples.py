"""What only some criteria need of the calibration samples: worked out when one of them asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from edgeprune.scoring.collection import pool_steps
from edgeprune.scoring.consumer_kinds import (
    channels_last,
    count_places,
    kernel_matrix,
    take_patches,
)
from edgeprune.scoring.consumers import Consumer, find_consumers
from edgeprune.scoring.gates import GatedModel, input_positions
from edgeprune.scoring.losses import Objective, batch_size
from edgeprune.support.gradients import differentiate
from edgeprune.tracing.graph import Call, run
from edgeprune.tracing.groups import Group, Groups
from edgeprune.tracing.outputs import Task

EVERYWHERE = 2**31
RANKED_SAMPLES = 32
LEAST_PLACES = 2048

Tensor = Any


@dataclass(frozen=True)
class Responses:
    """What one consumer sees of a group.

    Attributes:
        pooled: `(n, width)` mean over positions, sample by sample.
        active: `(width,)` share of positions that are not 0.
        magnitude: `(width,)` mean of the absolute value.
    """

    pooled: np.ndarray
    active: np.ndarray
    magnitude: np.ndarray


@dataclass(frozen=True, eq=False)
class CalibrationSamples:
    """Calibration samples of one model, and what is seen when it runs on them.

    The plain statistics serve most criteria and stay cheap; everything here is computed at most
    once, on first use, and shared by all who ask.

    Attributes:
        groups: of the model, which is in their graph.
        inputs: `(n, ...)` preprocessed samples.
        targets: `(n,)` output that each belongs to; none where that is not known.
        classes: outputs that will be kept; samples of others are left out. `None` for all.
        seed: of everything that is drawn.
        task: what the outputs mean, see `output_kinds`.
    """

    groups: Groups = field(repr=False)
    inputs: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False, default_factory=lambda: np.empty(0, np.int64))
    classes: tuple[int, ...] | None = None
    seed: int = 0
    task: Task = "auto"

    def __post_init__(self) -> None:
        """Leave out what belongs to other classes."""
        if self.classes is None or not self.targets.size:
            return
        kept = np.isin(self.targets, self.classes)
        if kept.all():
            return
        object.__setattr__(self, "inputs", self.inputs[kept])
        object.__setattr__(self, "targets", self.targets[kept])

    @cached_property
    def gated(self) -> GatedModel:
        """The model with gates."""
        return GatedModel.of(self.groups)

    @cached_property
    def objective(self) -> Objective:
        """The loss on all samples."""
        return Objective(self.groups, self.inputs, self.targets, self.classes, self.seed, self.task)

    @cached_property
    def _subsets(self) -> dict[int, CalibrationSamples]:
        return {}

    def subset(self, count: int) -> CalibrationSamples:
        """Return some of the samples, drawn with the seed; the same again for the same number."""
        if count not in self._subsets:
            self._subsets[count] = self._draw(count)
        return self._subsets[count]

    def _draw(self, count: int) -> CalibrationSamples:
        if count >= len(self.inputs):
            return self
        order = np.random.default_rng(self.seed).permutation(len(self.inputs))
        chosen = np.sort(order[:count])
        targets = self.targets[chosen] if self.targets.size else self.targets
        return CalibrationSamples(
            self.groups, self.inputs[chosen], targets, self.classes, self.seed, self.task
        )

    # One forward pass.

    def responses(self, group: Group) -> list[Responses]:
        """Return what each consumer of a group sees of its channels; none if nobody is known."""
        found = []
        for columns, channels, (pooled, active, magnitude) in self._of(group, self._responses):
            whole = np.zeros((len(pooled), group.width))
            share, size = np.zeros((2, group.width))
            whole[:, channels] = pooled[:, columns].mean(axis=1)
            share[channels] = active[columns].mean(axis=0)
            size[channels] = magnitude[columns].mean(axis=0)
            found.append(Responses(whole, share, size))
        return found

    @cached_property
    def _responses(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        pooled: dict[str, list[np.ndarray]] = {}
        sums: dict[str, np.ndarray] = {}

        def on_consumer(consumer: Consumer, x: Tensor, samples: int) -> None:
            rows = consumer.rows(x, EVERYWHERE, np.random.default_rng(0))
            size = float(np.prod(rows.shape[:2]))
            active = ops.sum(ops.cast(ops.not_equal(rows, 0), "float32"), axis=(0, 1))
            found = np.stack([_home(active), _home(ops.sum(ops.abs(rows), axis=(0, 1)))])
            found = np.vstack([found, np.full(found.shape[1], size)])
            sums[consumer.path] = sums.get(consumer.path, np.zeros(1)) + found
            means = pool_steps(ops.mean(rows, axis=1), samples)
            pooled.setdefault(consumer.path, []).append(_home(means))

        self._watch(on_consumer)
        return {
            path: (np.concatenate(pooled[path]), found[0] / found[2], found[1] / found[2])
            for path, found in sums.items()
        }

    def ranks(self, group: Group) -> list[np.ndarray]:
        """Return the mean rank of each channel's map, for each consumer of a group, `(width,)`."""
        number = self.groups.index[group.name]
        found = []
        for consumer in self.consumers:
            if consumer.path not in self._ranks:
                continue
            ranks = self._ranks[consumer.path]
            positions = input_positions(consumer, len(ranks))
            held = consumer.axis.group[positions] == number
            if held.any():
                channel = consumer.axis.channel[positions[held]]
                total = np.bincount(channel, ranks[held], group.width)
                found.append(total / np.maximum(np.bincount(channel, minlength=group.width), 1))
        return found

    @cached_property
    def _ranks(self) -> dict[str, np.ndarray]:
        ranks: dict[str, list[np.ndarray]] = {}

        def on_consumer(consumer: Consumer, x: Tensor, samples: int) -> None:
            maps = np.moveaxis(_home(channels_last(consumer.layer, x)), -1, 1)
            sides = maps.shape[2] if maps.ndim > 2 else 1
            found = np.linalg.matrix_rank(maps.reshape(*maps.shape[:2], sides, -1))
            ranks.setdefault(consumer.path, []).append(found.astype(np.float64))

        self.subset(RANKED_SAMPLES)._watch(on_consumer)
        return {path: np.concatenate(parts).mean(axis=0) for path, parts in ranks.items()}

    def contributions(self, group: Group) -> list[np.ndarray]:
        """Return sums of products of what channels add to sampled outputs of each consumer.

        At a sampled position one output of the consumer is drawn; it is the sum over channels of
        kernel times patch (and a bias).

        Returns:
            `(width, width)` per consumer, in units of the energy of the whole sum.
        """
        found = []
        for columns, channels, gram in self._of(group, self._contributions):
            whole = np.zeros((group.width, group.width))
            for left in columns:
                for right in columns:
                    whole[np.ix_(channels, channels)] += gram[np.ix_(left, right)]
            energy = float(whole.sum())
            if np.isfinite(whole).all() and energy > 0:
                found.append(whole / energy)
        return found

    @cached_property
    def _contributions(self) -> dict[str, np.ndarray]:
        grams: dict[str, np.ndarray] = {}
        generator = np.random.default_rng(self.seed)
        kernels = {consumer.path: kernel_matrix(consumer.layer) for consumer in self.consumers}
        batches = -(-len(self.inputs) // batch_size(self.groups.graph))

        def on_consumer(consumer: Consumer, x: Tensor, samples: int) -> None:
            total = count_places(consumer.layer, x)
            wanted = max(LEAST_PLACES, 4 * consumer.slots.shape[1]) // batches + 1
            places = generator.choice(total, min(total, wanted), replace=False)
            patches = _home(take_patches(consumer.layer, x, places))
            kernel = kernels[consumer.path]
            blocks = patches.shape[-1] // kernel.shape[1]
            outputs = generator.integers(0, kernel.shape[-1], len(patches))
            block = outputs * blocks // kernel.shape[-1]
            within = np.arange(kernel.shape[1]) + (block * kernel.shape[1])[:, None]
            seen = np.take_along_axis(patches, within[:, None], axis=-1)
            added = np.einsum("ntc,tcn->nc", seen, kernel[:, :, outputs], optimize=True)
            by_column = added[:, consumer.slots].sum(axis=1)
            grams[consumer.path] = grams.get(consumer.path, 0) + by_column.T @ by_column

        self._watch(on_consumer)
        return grams

    # One further pass, backwards.

    def gate_gradients(self, group: Group) -> np.ndarray | None:
        """Return the gradient of each sample's loss by each channel's gate, `(n, width)`.

        By the chain rule it is the sum over positions and consumers of activation times gradient.
        `None` if no known layer reads the group.
        """
        return self._gate_gradients.get(group.name)

    @cached_property
    def _gate_gradients(self) -> dict[str, np.ndarray]:
        names = self.gated.gated
        parts: list[list[np.ndarray]] = []
        size = max(1, batch_size(self.groups.graph) // 2)
        for start in range(0, len(self.inputs), size):
            batch = self.inputs[start : start + size]
            ones = [np.ones((len(batch), self.groups[name].width), np.float32) for name in names]

            def loss(gates: Any, start: int = start, batch: np.ndarray = batch) -> Tensor:
                outputs = self.gated.run([batch], dict(zip(names, gates, strict=True)))
                stop = start + len(batch)
                return ops.sum(self.objective.losses(outputs, start, stop, stirred=True))

            _, gradients = differentiate(loss, ones)
            parts.append([_home(gradient) for gradient in gradients])
        stacked = [np.concatenate(found) for found in zip(*parts, strict=True)]
        return dict(zip(names, stacked, strict=True))

    # What is shared.

    @cached_property
    def consumers(self) -> tuple[Consumer, ...]:
        """The layers that read channels."""
        return find_consumers(self.groups)

    def _of(
        self, group: Group, found: Mapping[str, Any]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Yield for each consumer of a group its columns, their channels and what was found."""
        number = self.groups.index[group.name]
        for consumer in self.consumers:
            columns, channels = consumer.columns(number)
            if channels.size and consumer.path in found:
                yield columns, channels, found[consumer.path]

    def _watch(self, on_consumer: Callable[[Consumer, Tensor, int], None]) -> None:
        """Run all samples through the model; show what each consumer takes, of how many."""
        by_path = {consumer.path: consumer for consumer in self.consumers}
        size = batch_size(self.groups.graph)

        def on_call(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if call.path in by_path:
                on_consumer(by_path[call.path], args[0], len(batch))
            return call.operation(*args, **kwargs)

        for start in range(0, len(self.inputs), size):
            batch = ops.convert_to_tensor(self.inputs[start : start + size])
            run(self.groups.graph, [batch], on_call)


def _home(x: Tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), dtype=np.float64)
