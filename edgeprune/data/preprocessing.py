"""The scaling a model was trained with. It cannot be read from the model: it is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.errors import DataError
from edgeprune.support.user_code import explain_exit, import_object

FORMS = (
    "raw (values as stored), unit (x / 255), symmetric (x / 127.5 - 1), "
    "'standardize:mean=125.3,122.9,113.9;std=63,62,66.7' ((x - mean) / std, one number or one per "
    "channel; quote it, the shell splits at ';') or module:function (your own code)"
)


@dataclass(frozen=True)
class Preprocess:
    """Turns a raw batch into what the model wants: float32 of the same shape.

    Attributes:
        name: the text that `parse_preprocess` turns into this object again.
        function: raw batch (n, ...) to scaled batch (n, ...).
    """

    name: str
    function: Callable[[np.ndarray], Any]

    @property
    def scaling(self) -> Scaling | None:
        """The straight line that this is; `None` for a function of the user's."""
        return self.function if isinstance(self.function, Scaling) else None

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scale a raw batch.

        Raises:
            DataError: the result has another shape, or is not numbers, or there is none.
        """
        try:
            result = np.asarray(self.function(batch))
        except SystemExit as error:
            raise explain_exit(self.name, "--preprocess", DataError, error) from error
        if result.shape != batch.shape or result.dtype.kind not in "fiub":
            raise DataError(
                f"--preprocess {self.name} must return numbers of the shape it is given, "
                f"{batch.shape}. It returned {result.dtype} of shape {result.shape}."
            )
        return result.astype(np.float32, copy=False)


def parse_preprocess(spec: str | Callable[[np.ndarray], Any]) -> Preprocess:
    """Read a `--preprocess` value.

    `module:function` imports the user's own code (the current folder counts as part of the Python
    path) and calls it with raw batches (n, ...), as `keras.applications.resnet50:preprocess_input`
    expects them: float32, which it may overwrite.

    Args:
        spec: `raw`, `unit`, `symmetric`, `standardize:mean=...;std=...` with one number or one per
            channel, `module:function`, a function, or a `Preprocess` (returned as it is).

    Raises:
        DataError: the text has none of these forms, or the function cannot be imported.

    Example:
        >>> parse_preprocess("symmetric")(np.array([[0.0, 255.0]]))
        array([[-1.,  1.]], dtype=float32)
        >>> parse_preprocess("standardize:mean=100;std=50").name
        'standardize:mean=100.0;std=50.0'
    """
    if isinstance(spec, Preprocess):
        return spec
    if callable(spec):
        module = getattr(spec, "__module__", None) or "python"
        name = getattr(spec, "__qualname__", type(spec).__qualname__)
        return Preprocess(f"{module}:{name}", _with_float_copy(spec))
    text = spec.strip()
    if text in SCALINGS:
        return Preprocess(text, SCALINGS[text])
    if text.split(":")[0] == "standardize":
        return _parse_standardize(text)
    module_name, separator, function_name = text.partition(":")
    if not (separator and module_name and function_name):
        close = difflib.get_close_matches(text.lower(), [*SCALINGS, "standardize"], n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise DataError(f"'{spec}' is not a --preprocess value.{hint} Choose {FORMS}.")
    return Preprocess(text, _with_float_copy(import_object(text, "--preprocess", DataError)))


def _parse_standardize(text: str) -> Preprocess:
    fields = dict(part.partition("=")[::2] for part in text.partition(":")[2].split(";") if part)
    try:
        mean, std = (
            tuple(float(number) for number in fields.pop(key).split(",")) for key in ("mean", "std")
        )
    except (KeyError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"Cannot read --preprocess '{text}': {problem}. Choose {FORMS}.") from error
    if fields:
        raise DataError(
            f"Cannot read --preprocess '{text}': '{next(iter(fields))}' is neither mean nor std. "
            f"Choose {FORMS}."
        )
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise DataError(
            f"Cannot read --preprocess '{text}': mean must be finite and std greater than zero."
        )
    if min(len(mean), len(std)) > 1 and len(mean) != len(std):
        raise DataError(
            f"Cannot read --preprocess '{text}': {len(mean)} numbers for mean and {len(std)} for "
            "std. Give one number or one per channel."
        )
    scaling = Scaling(mean, std)
    return Preprocess(scaling.name, scaling)


def _with_float_copy(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    """Hand the user's function a float32 copy: many scale in place, and uint8 wraps around."""
    return lambda batch: function(batch.astype(np.float32))


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
