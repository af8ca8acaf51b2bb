"""What a model costs at given group widths, without building it.

Every cost is a sum of products of axis sizes, and every axis size is linear in the widths of the
groups, so a thousand candidate widths cost a millisecond each. MACs are multiply-accumulates of one
inference (one sample); additions, activations, normalisation and products of tensors with each
other (other than attention) are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeprune.cost.budgets import COUNTED
from edgeprune.cost.estimates import Estimates
from edgeprune.cost.multiplications import is_counted, multiplications
from edgeprune.cost.workload import Widths, emptied, linear_size
from edgeprune.errors import ModelError
from edgeprune.latency import Deployment
from edgeprune.tracing.graph import Shape
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.vanishing import Vanished

Term = tuple[str, float, list[int]]
Terms = list[Term]
NOWHERE = Deployment()
CONSTANT_NUMBERS = 3
"""Numbers per channel in a layer that stands for an emptied branch."""


@dataclass(frozen=True)
class Cost:
    """Counted cost of one inference and of storage.

    Attributes:
        macs: multiply-accumulates per sample; `None` where the input has no fixed size.
        params: numbers in the weights, BatchNorm statistics included.
    """

    macs: int | None
    params: int

    def require_macs(self) -> int:
        """Return the multiply-accumulates.

        Raises:
            ModelError: the model's input has no fixed height and width.
        """
        if self.macs is None:
            raise ModelError(
                "MACs cannot be counted: the model's input has no fixed height and width. Give "
                "them, --input-size 96x96, build it with a fixed keras.Input(shape), or budget "
                "params."
            )
        return self.macs


class CostModel:
    """Costs of a model as a function of its group widths.

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> costs = CostModel(find_groups(model))
        >>> costs.full.macs, costs.count({"hidden": 3}).macs
        (48, 18)
    """

    def __init__(self, groups: Groups, deployment: Deployment = NOWHERE) -> None:
        """Collect the terms of the sums.

        Args:
            groups: of the model to count.
            deployment: number format and board that the other quantities are about.
        """
        self.groups = groups
        self.deployment = deployment
        self._widths = np.array([group.width for group in groups], dtype=float)
        rows: list[np.ndarray] = []
        constants: list[float] = []
        row_of: dict[tuple[str, int, int], int] = {}
        for axis in (*groups.axes, *groups.repeats.values()):
            row, constant = linear_size(groups, axis)
            row_of[axis.layer, axis.weight, axis.axis] = len(rows)
            rows.append(row)
            constants.append(constant)
        self._rows = np.array(rows).reshape(len(rows), len(groups))
        self._constants = np.array(constants)
        weight_terms, call_terms = self._find_terms(row_of)
        self._params = _Products(weight_terms, len(rows))
        self._macs = _Products(call_terms, len(rows))

    def _find_terms(self, row_of: Mapping[tuple[str, int, int], int]) -> tuple[Terms, Terms]:
        """Return the terms of the parameters, and of the multiply-accumulates."""

        def term(path: str, index: int, shape: Shape, axes: Iterable[int]) -> Term:
            factor, found = 1.0, []
            for axis in axes:
                row = row_of.get((path, index, axis))
                if row is None:
                    factor *= shape[axis] or 0
                else:
                    found.append(row)
            return path, factor, found

        of_weights: Terms = []
        of_calls: Terms = []
        counted: set[str] = set()
        for call in self.groups.graph.calls:
            weights = call.operation.weights if call.is_layer else []
            shapes = [tuple(weight.shape) for weight in weights]
            if call.path not in counted:
                counted.add(call.path)
                for index, shape in enumerate(shapes):
                    of_weights.append(term(call.path, index, shape, range(len(shape))))
            index_of = {id(weight): index for index, weight in enumerate(weights)}
            for product in multiplications(call, call.operation):
                index = index_of[id(product.weight)]
                axes = range(len(shapes[index])) if product.axes is None else product.axes
                path, factor, found = term(call.path, index, shapes[index], axes)
                if call.path in self.groups.repeats:
                    factor /= len(self.groups.repeats[call.path].group)
                    found.append(row_of[call.path, -1, -1])
                of_calls.append((path, factor * product.times * call.times, found))
        return of_weights, of_calls

    def _sizes(self, widths: Widths, vanished: Vanished) -> np.ndarray:
        chosen = self._widths.copy()
        for name, width in {**widths, **dict.fromkeys(vanished.groups, 0)}.items():
            chosen[self.groups.index[name]] = width
        return self._rows @ chosen + self._constants

    def count(self, widths: Widths) -> Cost:
        """Count the cost when groups have these widths; groups that are not named keep theirs.

        Groups of width 0 vanish with their branches, see `Groups.vanishing`. What these leave is
        counted as layers of their own, though a recovery may do without.

        Raises:
            PlanError: a group has width 0 that must stay.
        """
        vanished = self.groups.vanishing.close(emptied(widths))
        sizes, gone = self._sizes(widths, vanished), vanished.find_gone(self.groups.graph)
        macs = self._macs.total(sizes, gone)
        params = self._params.total(sizes, gone)
        for ref in vanished.find_constants(self.groups.graph):
            row, constant = linear_size(self.groups, self.groups.tensors[ref.number])
            held = {**widths, **dict.fromkeys(vanished.groups, 0)}
            chosen = [held.get(group.name, group.width) for group in self.groups]
            params += CONSTANT_NUMBERS * (float(row @ chosen) + constant)
        return Cost(None if math.isnan(macs) else round(macs), round(params))

    def spend(self, quantity: str, widths: Widths) -> float:
        """Return what widths cost of any quantity that can be budgeted, in its own unit.

        Raises:
            BudgetError: the quantity cannot be predicted for the board.
            ModelError: the model's input has no fixed size.
        """
        if quantity in COUNTED:
            cost = self.count(widths)
            return float(cost.require_macs() if quantity == "macs" else cost.params)
        return self.estimates.spend(quantity, widths)

    def marginal(self, quantity: str, widths: Widths) -> dict[str, float]:
        """Return what one channel of each group costs at these widths, the others held."""
        if quantity not in COUNTED:
            return self.estimates.marginal(quantity, widths)
        terms = self._macs if quantity == "macs" else self._params
        vanished = self.groups.vanishing.close(emptied(widths))
        gone = vanished.find_gone(self.groups.graph)
        rates = terms.gradient(self._sizes(widths, vanished), gone) @ self._rows
        return dict(zip(self.groups.index, rates.tolist(), strict=True))

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Layers whose multiplications are not known, by path: left out, or taken for matrices."""
        calls = self.groups.graph.calls
        found = (call.path for call in calls if not is_counted(call, call.operation))
        return tuple(dict.fromkeys(found))

    @property
    def caveat(self) -> str:
        """What the count of MACs does not know, in a sentence; empty if it knows all."""
        if not self.uncounted:
            return ""
        more = f" and {len(self.uncounted) - 3} more" if len(self.uncounted) > 3 else ""
        names = ", ".join(f"'{path}'" for path in self.uncounted[:3])
        return (
            f"It is not known how much layer {names}{more} multiplies: MACs leave out unknown "
            "layers of Keras, and take weights of your own layers for matrices."
        )

    @cached_property
    def estimates(self) -> Estimates:
        """What is not counted but predicted: size, memory, latency, energy."""
        return Estimates(self.groups, self.deployment)

    @cached_property
    def full(self) -> Cost:
        """The cost of the model as it is."""
        return self.count({})


class _Products:
    """A sum of `constant * product of axis sizes`."""

    def __init__(self, terms: Terms, num_axes: int) -> None:
        longest = max((len(found) for _, _, found in terms), default=0)
        self._paths = [path for path, _, _ in terms]
        self._constants = np.array([constant for _, constant, _ in terms])
        # Missing factors point to one more axis, of size 1.
        self._axes = np.full((len(terms), longest), num_axes)
        for number, (_, _, found) in enumerate(terms):
            self._axes[number, : len(found)] = found

    def _factors_of(self, gone: frozenset[str]) -> np.ndarray:
        """Return the constants, 0 for operations that are gone."""
        if not gone:
            return self._constants
        return np.where([path in gone for path in self._paths], 0.0, self._constants)

    def _factors(self, sizes: np.ndarray) -> np.ndarray:
        return np.append(sizes, 1.0)[self._axes]

    def total(self, sizes: np.ndarray, gone: frozenset[str]) -> float:
        return float(self._factors_of(gone) @ self._factors(sizes).prod(axis=1))

    def gradient(self, sizes: np.ndarray, gone: frozenset[str]) -> np.ndarray:
        """Return the derivative by the size of every axis."""
        factors, constants = self._factors(sizes), self._factors_of(gone)
        result = np.zeros(len(sizes) + 1)
        for slot in range(factors.shape[1]):
            others = np.delete(factors, slot, axis=1).prod(axis=1)
            np.add.at(result, self._axes[:, slot], constants * others)
        return result[:-1]
