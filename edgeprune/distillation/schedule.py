"""When a fine-tuning ends, and the learning rate until then, on wall time or on epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Clock = Callable[[], float]
CLOCK: Clock = time.perf_counter
SLACK = 0.1


class Schedule:
    """How far a fine-tuning has come, between 0 and 1.

    Attributes:
        steps: training steps, at most; `None` for no limit.
        reserve: seconds that will be needed after the last step.

    Example:
        >>> moments = iter([0.0, 30.0])
        >>> schedule = Schedule(60.0, clock=lambda: next(moments))
        >>> schedule.progress(step=10)
        0.5
    """

    def __init__(
        self, seconds: float | None, steps: int | None = None, *, clock: Clock = CLOCK
    ) -> None:
        """Start the clock.

        Args:
            seconds: wall time, `None` for no limit.
            steps: training steps, `None` for no limit.
            clock: gives seconds.
        """
        self._seconds = seconds
        self.steps = steps
        self._clock = clock
        self._start = clock()
        self._begun = 0.0
        self.reserve = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds so far, those of interrupted runs included."""
        return self._clock() - self._start

    def begin(self) -> None:
        """Count what was spent so far, on compilation, as preparation."""
        self._begun = self.elapsed

    def resume(self, spent: float) -> None:
        """Count seconds that an interrupted run has taken."""
        self._start -= spent
        self._begun = 0.0

    def progress(self, step: int) -> float:
        """Return the share that is done; training ends at 1, `reserve` seconds before the limit."""
        done = 0.0 if self.steps is None else step / self.steps
        if self._seconds is not None:
            left = self._seconds - self.reserve - self._begun
            over = (self.elapsed - self._begun) / left if left > 0 else 1.0
            # A run that its steps will end does not depend on how long each of them took.
            if self.steps is None or over >= 1 or over > done + SLACK:
                done = max(done, over)
        return min(done, 1.0)

    def reason(self, step: int) -> str:
        """Say what is over: `epochs` or `time`."""
        return "epochs" if self.steps is not None and step >= self.steps else "time"


def learning_rate(progress: float, peak: float, warm_up: float) -> float:
    """Return a linear rise to `peak`, then half a cosine down to zero.

    Args:
        progress: between 0 and 1.
        peak: at the end of the warm-up.
        warm_up: share of the whole.

    Example:
        >>> [round(learning_rate(share, 0.1, 0.1), 3) for share in (0.05, 0.1, 0.55, 1.0)]
        [0.05, 0.1, 0.05, 0.0]
    """
    if progress < warm_up:
        return peak * progress / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / max(1 - warm_up, 1e-9)))
