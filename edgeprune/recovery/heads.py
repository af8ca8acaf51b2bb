"""Refit of a classifier's head on all calibration samples, its ridge chosen by leaving one out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.errors import ClassError
from edgeprune.recovery.intercepts import give_biases
from edgeprune.recovery.matching import home
from edgeprune.scoring.consumer_kinds import assign_kernel, kernel_matrix
from edgeprune.scoring.destinations import Destination
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.graph import Call, Graph, build_graph, run
from edgeprune.tracing.groups import Groups, find_head
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.outputs import output_kinds
from edgeprune.tracing.replica import operations_by_path

BATCH_SIZE = 256
PENALTIES = 10.0 ** np.arange(-4, 3)
"""Times the mean square of the centred features; an infinite one, no change, is tried as well."""


@dataclass(frozen=True)
class Head:
    """The layer that writes the classes, as one that takes a constant.

    Attributes:
        path: of the layer.
        destination: its own output.
    """

    path: str
    destination: Destination = field(default_factory=lambda: Destination(None))


@full_float32()
def refit_head(
    recovered: keras.Model, groups: Groups, plan: Plan, inputs: np.ndarray
) -> keras.Model:
    """Return a copy whose head gives, from the features of the pruned model, the original's logits.

    Only the kept classes count, and where softmax follows only their differences. The correction of
    the head is a ridge regression; its penalty is the one with the least error on samples that are
    left out one at a time, in closed form (Allen's PRESS statistic, 1974), so a head that cannot be
    improved stays.

    Args:
        recovered: a pruned model after other recoveries; not changed.
        groups: of the original, which is in their graph.
        plan: what was kept.
        inputs: `(n, ...)` preprocessed calibration samples.

    Returns:
        A new model of the same size; the model itself where the head is no Dense layer that is
        called once, or there are too few samples to leave one out.

    Example:
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((6,)), keras.layers.Dense(5, name="hidden"),
        ...     keras.layers.Dense(3, name="head")])
        >>> inputs = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
        >>> broken = keras.models.clone_model(model)
        >>> broken.set_weights(model.get_weights())
        >>> _ = broken.get_layer("head").kernel.assign(np.zeros((5, 3)))
        >>> mended = refit_head(broken, find_groups(model), Plan(), inputs)
        >>> bool(np.abs(mended(inputs) - model(inputs)).max() < 1e-2)
        True
    """
    call = _find_dense_head(groups)
    if call is None or len(inputs) < 3:
        return recovered
    result = give_biases(recovered, [Head(call.path)])
    layer: Any = operations_by_path(result)[call.path]
    chosen = slice(None) if plan.classes is None else list(plan.classes)
    original = home(call.operation.kernel), _bias(call.operation)
    wanted = _collect_inputs(groups.graph, call.path, inputs) @ original[0] + original[1]
    features = _collect_inputs(build_graph(result), call.path, inputs)
    kernel = kernel_matrix(layer)[0]
    rest = wanted[:, chosen] - (features @ kernel + home(layer.bias))
    if output_kinds(groups.graph)[0].ending == "softmax":
        rest = rest - rest.mean(axis=1, keepdims=True)
    change, constant = fit_ridge(features, rest)
    assign_kernel(layer, kernel + change)
    layer.bias.assign(home(layer.bias) + constant)
    return result


def fit_ridge(
    features: np.ndarray, wanted: np.ndarray, penalties: Sequence[float] = tuple(PENALTIES)
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ridge regression whose penalty is best on samples left out one at a time.

    Args:
        features: `(n, K)`.
        wanted: `(n, outputs)`.
        penalties: to choose from, as multiples of the mean square of the centred features.

    Returns:
        Coefficients `(K, outputs)` and constants `(outputs,)`; zeros where that is best.
    """
    x, y = features.astype(np.float64), wanted.astype(np.float64)
    nothing = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return nothing
    mean, middle = x.mean(axis=0), y.mean(axis=0)
    left, sizes, right = np.linalg.svd(x - mean, full_matrices=False)
    along = left.T @ (y - middle)
    best, found = float(np.square(y).sum()), nothing
    scale = max(float(np.square(sizes).sum()) / x.shape[1], float(np.finfo(float).tiny))
    for penalty in penalties:
        shrink = sizes**2 / (sizes**2 + penalty * scale)
        influence = 1 / len(x) + np.square(left) @ shrink
        rest = y - middle - left @ (shrink[:, None] * along)
        error = float(np.square(rest / np.maximum(1 - influence, 1e-9)[:, None]).sum())
        if error < best:
            factor = np.divide(shrink, sizes, out=np.zeros_like(sizes), where=sizes > 0)
            change = right.T @ (factor[:, None] * along)
            best, found = error, (change, middle - mean @ change)
    return found


def _find_dense_head(groups: Groups) -> Call | None:
    """Return the only call of the Dense layer that writes the classes, if there is one."""
    try:
        path = find_head(groups).layers("writes")[0]
    except ClassError:
        return None
    calls = [call for call in groups.graph.calls if call.path == path]
    plain = type(calls[0].operation) is keras.layers.Dense and len(calls[0].inputs[0].shape) == 2
    return calls[0] if plain and len(calls) == 1 else None


def _bias(layer: Any) -> np.ndarray:
    return home(layer.bias) if layer.use_bias else np.zeros(layer.units, np.float32)


def _collect_inputs(graph: Graph, path: str, inputs: np.ndarray) -> np.ndarray:
    """Return what a layer of a model sees, `(n, features)`."""
    seen: list[np.ndarray] = []

    def watch(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call.path == path:
            seen.append(home(args[0]))
        return call.operation(*args, **kwargs)

    for start in range(0, len(inputs), BATCH_SIZE):
        run(graph, [ops.convert_to_tensor(inputs[start : start + BATCH_SIZE])], watch)
    return np.concatenate(seen)
