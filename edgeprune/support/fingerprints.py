"""What a file that is resumed must agree with: a digest of all that its content depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune import __version__
from edgeprune.support.progress import stage


def fingerprint(*parts: Any) -> str:
    """Return a digest of values and of the version of edgeprune, 16 hexadecimal digits.

    Args:
        parts: arrays count by type, shape and content (a gigabyte takes about a second); sequences,
            mappings and dataclasses by what they hold; other values by their text.

    Example:
        >>> fingerprint("a", [1, 2]) == fingerprint("a", [1, 2])
        True
        >>> fingerprint(np.zeros(2)) == fingerprint(np.zeros((2, 1)))
        False
    """
    digest = hashlib.blake2b(__version__.encode(), digest_size=8)
    _add(digest, parts)
    return digest.hexdigest()


def _add(digest: Any, part: Any) -> None:
    if isinstance(part, np.ndarray) and part.dtype.kind != "O":
        digest.update(f"array {part.dtype} {part.shape};".encode())
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        _add(
            digest,
            [type(part).__name__, *(getattr(part, f.name) for f in dataclasses.fields(part))],
        )
    elif isinstance(part, Mapping):
        _add(digest, [[str(key), part[key]] for key in sorted(part, key=str)])
    elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
        digest.update(f"{len(part)} values;".encode())
        for value in part:
            _add(digest, value)
    else:
        text = str(part).encode()
        digest.update(f"{type(part).__name__} {len(text)};".encode() + text)


def say_new_start(path: str | os.PathLike[str], kind: str) -> None:
    """Tell that what a file holds is not gone on from, as a warning and among the stages."""
    text = f"{kind} '{path}' is of another model, other data or other settings: starting anew"
    warnings.warn(f"{text}.", stacklevel=3)
    with stage(text):
        pass
