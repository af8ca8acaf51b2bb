"""What outputs can be for. Needs nothing else: whoever reads a setting has no model yet."""

from __future__ import annotations

from typing import Literal, get_args

from edgeprune.errors import EdgepruneError

Task = Literal["auto", "classify", "multilabel", "binary", "regress"]
TASKS: tuple[Task, ...] = get_args(Task)


def check_task(task: str) -> None:
    """Refuse a task that there is not.

    Raises:
        EdgepruneError: lists those that there are.
    """
    if task not in TASKS:
        raise EdgepruneError(f"Unknown task '{task}'. Choose from: {', '.join(TASKS)}.")
