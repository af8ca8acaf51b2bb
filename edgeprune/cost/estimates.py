"""What widths cost on a board: latency and energy, predicted; bytes of the file and of activations.

The model is not built. Latency has steps, because kernels work on whole tiles of channels; the
price of a channel is therefore taken over a step of widths and not at a point.
"""

from __future__ import annotations

import numpy as np

from edgeprune.cost.workload import Widths, WorkloadModel
from edgeprune.latency.deployments import QUANTIZED, Deployment
from edgeprune.latency.operators import Workload
from edgeprune.latency.predictor import Prediction
from edgeprune.tracing.groups import Groups

STORED_BYTES = {"float32": 4, "float16": 2, "dynamic": 1, "int8": 1, "int8-qat": 1, "int16x8": 1}
"""Bytes of a weight in the file."""
VALUE_BYTES = {"int8": 1, "int8-qat": 1, "int16x8": 2}
"""Bytes of an activation; of floats four."""
END_BYTES = {"float32": 4, "uint8": 1}
"""Bytes of a value that goes in and out of an integer model, where it is converted there."""
CHANNEL_BYTES = {True: 28, False: 4}
"""Bytes per output channel beside the weights. Quantized: a bias of four bytes, and scale (4) and
zero point (8) of the kernel and of the bias; else the bias alone."""
OPERATOR_BYTES = 320
"""Bytes per operator: itself, its tensors and their names; the mean over converted networks."""
FILE_BYTES = 2000
"""Bytes of a file without operators: signature, metadata, buffers."""
PRICE_STEP = 8
"""Channels over which a price is taken: whole tiles of the common kernels."""

LEAST_PRICE = 1e-6


class Estimates:
    """Size, memory, latency and energy of a model at any widths.

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> from edgeprune.latency import Deployment
        >>> model = keras.Sequential([keras.Input((8, 8, 1)),
        ...     keras.layers.Conv2D(4, 3, name="conv"), keras.layers.Flatten()])
        >>> estimates = Estimates(find_groups(model), Deployment("int8"))
        >>> estimates.spend("memory", {})  # 64 floats in; 144 integers and floats out
        976.0
    """

    def __init__(self, groups: Groups, deployment: Deployment) -> None:
        """List the operators of the model.

        Raises:
            ModelError: the model's input has no fixed size.
        """
        self._work = WorkloadModel(groups, float_ends=deployment.float_ends)
        self._deployment = deployment

    def spend(self, quantity: str, widths: Widths) -> float:
        """Return what widths cost.

        Args:
            quantity: `size`, `memory`, `latency`, `energy` or `fits`.
            widths: by group name; groups that are not named keep theirs.

        Raises:
            BudgetError: the board has no predictor, or no power is known.
        """
        return float(self._evaluate(quantity, self._work.chosen(widths)))

    def predict(self) -> Prediction:
        """Return the latency of the model as it is, with the error to expect.

        Raises:
            BudgetError: the board has no predictor.
        """
        return self._deployment.require("latency").predict(self._work.at({}))

    def marginal(self, quantity: str, widths: Widths) -> dict[str, float]:
        """Return what one channel of each group costs, the others held."""
        chosen = self._work.chosen(widths)
        steps = np.minimum(PRICE_STEP, np.maximum(chosen - 1, 0.5))
        narrower = np.maximum(chosen - np.diag(steps), 0)
        now = self._evaluate(quantity, chosen)
        saved = now - self._evaluate(quantity, narrower)
        # Never nothing: a step inside a tile saves no time, but the next one will.
        prices = np.maximum(saved / steps, LEAST_PRICE * now / np.maximum(chosen, 1))
        return dict(zip(self._work.groups.index, prices.tolist(), strict=True))

    def _evaluate(self, quantity: str, widths: np.ndarray) -> np.ndarray:
        if quantity == "memory":
            item = VALUE_BYTES.get(self._deployment.scheme, 4)
            io = self._deployment.io
            ends = [END_BYTES.get(kind) for kind in (self._deployment.input or io, io)]
            return self._work.peak_bytes(
                widths, item, (ends[0], ends[1]) if item < 4 else (None,) * 2
            )
        work = self._work.at(widths)
        if quantity == "size":
            return self._file_bytes(work)
        if quantity == "fits":
            return (work.weights + 4 * work.channels).sum(-1)
        predictor = self._deployment.require(quantity)
        milliseconds = predictor.milliseconds(work)
        return milliseconds if quantity == "latency" else milliseconds * (predictor.power_w or 0)

    def _file_bytes(self, work: Workload) -> np.ndarray:
        scheme = self._deployment.scheme
        weights = work.weights * STORED_BYTES.get(scheme, 4)
        channels = work.channels * CHANNEL_BYTES[scheme in QUANTIZED]
        fixed = FILE_BYTES + OPERATOR_BYTES * len(work.kinds)
        return (weights + channels).sum(-1) + fixed
