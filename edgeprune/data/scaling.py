"""The straight line from stored values to inputs: what most models were trained with.

A straight line can move into the model, so that a board feeds the bytes of its camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeprune.errors import DataError


@dataclass(frozen=True)
class Scaling:
    """How a stored value becomes an input: (value - mean) / std, channels on the last axis.

    Attributes:
        mean: one number, or one per channel.
        std: one number, or one per channel; none is zero.

    Example:
        >>> Scaling((127.5,), (127.5,))(np.array([[0, 255]], np.uint8))
        array([[-1.,  1.]], dtype=float32)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def name(self) -> str:
        """The text that `parse_preprocess` turns into this scaling again."""
        for name, scaling in SCALINGS.items():
            if scaling == self:
                return name
        mean, std = (",".join(map(repr, values)) for values in (self.mean, self.std))
        return f"standardize:mean={mean};std={std}"

    @property
    def is_uniform(self) -> bool:
        """Whether all channels are treated alike."""
        return len({*self.mean}) == len({*self.std}) == 1

    def for_channels(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std as float64 arrays `(number,)`.

        Raises:
            DataError: they are given for another number of channels.
        """
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, number):
                raise DataError(
                    f"--preprocess {self.name} has {len(values)} numbers for {what}, but the "
                    f"samples have {number} channels. Give one number or one per channel."
                )
        mean, std = (np.asarray(values, np.float64) for values in (self.mean, self.std))
        return np.broadcast_to(mean, number), np.broadcast_to(std, number)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Turn stored values `(..., channels)` into inputs, in float32."""
        mean, std = self.for_channels(values.shape[-1])
        return (values.astype(np.float32) - np.float32(mean)) / np.float32(std)

    def invert(self, inputs: np.ndarray) -> np.ndarray:
        """Return the stored values, in float32, that become these inputs `(..., channels)`."""
        mean, std = self.for_channels(inputs.shape[-1])
        return np.asarray(inputs * std + mean, np.float32)


SCALINGS = {
    "raw": Scaling((0.0,), (1.0,)),
    "unit": Scaling((0.0,), (255.0,)),
    "symmetric": Scaling((127.5,), (127.5,)),
}
