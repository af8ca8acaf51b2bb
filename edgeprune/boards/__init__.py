"""What edgeprune knows of boards: target files, read and checked."""

from __future__ import annotations

from edgeprune.boards.target_files import (
    find_own_targets,
    find_target,
    list_targets,
    read_target,
)
from edgeprune.boards.targets import Figure, Target

__all__ = [
    "Figure",
    "Target",
    "find_own_targets",
    "find_target",
    "list_targets",
    "read_target",
]
