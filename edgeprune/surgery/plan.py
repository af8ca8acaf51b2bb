"""What was decided: which channels stay. A small frozen value, saved as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeprune.errors import PlanError
from edgeprune.support.files import MOST_JSON_BYTES, check_regular, replace_on_success


@dataclass(frozen=True)
class Plan:
    """Which channels stay: the only thing that surgery reads.

    Attributes:
        keep: group name -> kept channels, sorted. Groups that are not named stay whole; one that
            keeps none vanishes with its branch (see `Groups.vanishing`).
        fingerprint: of the model the plan was made for (`Groups.fingerprint`).
        classes: kept classes in the order of the new outputs; `None` keeps all.

    Example:
        >>> plan = Plan({"conv": (0, 2)}, fingerprint="abc")
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fingerprint: str = ""
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Freeze and check the indices."""
        kept = {name: tuple(int(i) for i in channels) for name, channels in self.keep.items()}
        for name, channels in kept.items():
            if list(channels) != sorted(set(channels)) or min(channels, default=0) < 0:
                raise PlanError(
                    f"Plan for group '{name}' must name channels sorted, each once. "
                    f"Got {list(channels)[:8]}."
                )
        object.__setattr__(self, "keep", MappingProxyType(kept))

    def __eq__(self, other: object) -> bool:
        """Compare by value."""
        return isinstance(other, Plan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Hash by value."""
        return hash(self.to_json())

    @property
    def emptied(self) -> frozenset[str]:
        """Names of the groups that keep no channel."""
        return frozenset(name for name, channels in self.keep.items() if not channels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dicts."""
        return {
            "version": 1,
            "fingerprint": self.fingerprint,
            "classes": None if self.classes is None else list(self.classes),
            "keep": {name: list(channels) for name, channels in self.keep.items()},
        }

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; the file appears only when complete."""
        with replace_on_success(path) as temporary:
            temporary.write_text(self.to_json())

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan.

        Raises:
            PlanError: the text is not a plan.
        """
        try:
            data = json.loads(text)
            classes = data["classes"]
            if data.get("gathers"):
                raise PlanError(
                    "This plan has channel gathers, which edgeprune 0.1 knew. Make a new one."
                )
            return cls(
                {str(name): tuple(channels) for name, channels in data["keep"].items()},
                str(data["fingerprint"]),
                None if classes is None else tuple(int(c) for c in classes),
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(
                f"Not a plan: {error}. Expected the JSON that `Plan.save` or `edgeprune prune` "
                "writes."
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a file.

        Raises:
            PlanError: the file is missing or not a plan.
        """
        check_regular(path, PlanError, MOST_JSON_BYTES)
        try:
            return cls.from_json(Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"Cannot read the plan '{path}': {error}.") from error
