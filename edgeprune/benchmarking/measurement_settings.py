"""What a run of the harness is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edgeprune.boards.target_checks import METERS
from edgeprune.errors import BenchmarkError

ON_HOST = ("log", "joulescope", "ppk2")


@dataclass(frozen=True)
class Meter:
    """A meter, and which machine reads it.

    Attributes:
        name: one of `none, pmic, hwmon, ina3221, rapl, battery, log, joulescope, ppk2`.
        detail: chip, rail, supply, file or voltage, as the meter takes it.
        on_host: read by this machine, which stands beside the board, rather than by the board.
    """

    name: str
    detail: str = ""
    on_host: bool = False

    @classmethod
    def parse(cls, text: str) -> Meter:
        """Read `hwmon`, `hwmon:ina226`, `hwmon@host` or `log:power.csv`.

        Raises:
            BenchmarkError: there is no such meter, or a log without its file.

        Example:
            >>> Meter.parse("hwmon:ina226@host")
            Meter(name='hwmon', detail='ina226', on_host=True)
        """
        text, at, place = text.partition("@")
        name, _, detail = text.partition(":")
        if name not in METERS or (at and place not in ("host", "board")):
            raise BenchmarkError(
                f"Unknown meter '{text}{at}{place}'. Choose one of {', '.join(METERS)}, followed "
                "by ':DETAIL' or '@host' if need be."
            )
        if name == "log" and not detail:
            raise BenchmarkError("The meter 'log' needs the file it writes: log:power.csv.")
        if name in ON_HOST and place == "board":
            raise BenchmarkError(f"The meter '{name}' is read by this machine, not by the board.")
        return cls(name, detail, place == "host" or name in ON_HOST)

    @property
    def argument(self) -> str:
        """Return it as the harness takes it."""
        return f"{self.name}:{self.detail}" if self.detail else self.name

    def __bool__(self) -> bool:
        return self.name != "none"


NO_METER = Meter("none")


@dataclass(frozen=True)
class Measurement:
    """How a build measures what it made.

    Attributes:
        latency: whether the `.tflite` is measured at all.
        until_met: whether pruning is repeated until the latency that is measured meets its budget.
        host: board to measure on, as ssh takes it; `None` is this machine.
        threads: of the runtime; `None` for the target's.
        seconds: of timed inferences per model in the final run.
    """

    latency: bool = True
    until_met: bool = False
    host: str | None = None
    threads: int | None = None
    seconds: float = 3.0


@dataclass(frozen=True)
class Settings:
    """A run of the harness.

    Attributes:
        threads: of the runtime.
        runs: most timed inferences per model.
        seconds: most seconds of timed inferences per model; at least ten inferences.
        warmup_seconds: most seconds of warm-up per model; it ends when the times are steady.
        meter: of power, or none.
        repeats: busy windows per model, if there is a meter.
        window_seconds: least length of a window.
        period_seconds: between readings; None for the meter's own.
        profile: time every operator too.
        delegate: library of the Edge TPU, for models that are compiled for it; None for none.
        device: which Edge TPU, such as `usb:0`; None for any.
        batch: `.npz` with `inputs` and `labels`, for accuracy on the board; or None.
        refuse_throttled: fail rather than flag figures of a machine that slowed itself down.
    """

    threads: int = 1
    runs: int = 1000
    seconds: float = 5.0
    warmup_seconds: float = 2.0
    meter: Meter = NO_METER
    repeats: int = 5
    window_seconds: float = 10.0
    period_seconds: float | None = None
    profile: bool = False
    delegate: str | None = None
    device: str | None = None
    batch: Path | None = None
    refuse_throttled: bool = False

    def check(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            BenchmarkError: one of them is not positive.
        """
        if not (self.warmup_seconds >= 0 and math.isfinite(self.warmup_seconds)):
            raise BenchmarkError(f"The warm-up cannot take {self.warmup_seconds} seconds.")
        numbers = (self.threads, self.runs, self.seconds)
        if not all(number > 0 and math.isfinite(number) for number in numbers):
            raise BenchmarkError(
                "threads, runs and seconds must be positive; "
                f"got {self.threads}, {self.runs} and {self.seconds}."
            )
        if self.batch is not None and not self.batch.is_file():
            raise BenchmarkError(f"Cannot read the batch '{self.batch}': expected a .npz file.")

    def arguments(self, batch: str | None = None) -> list[str]:
        """Return them as the command line of the harness, without the models.

        Args:
            batch: where the batch lies on the machine that runs the harness.
        """
        words = ["--threads", self.threads, "--runs", self.runs, "--seconds", self.seconds]
        words += ["--warmup", self.warmup_seconds]
        if self.meter:
            words += ["--energy", "--repeats", self.repeats, "--window", self.window_seconds]
            if not self.meter.on_host:
                words += ["--meter", self.meter.argument]
            if self.period_seconds:
                words += ["--period", self.period_seconds]
        if self.profile:
            words += ["--profile"]
        if self.delegate:
            words += ["--delegate", self.delegate, "--device", self.device or ""]
        if batch is not None:
            words += ["--batch", batch]
        if self.refuse_throttled:
            words += ["--refuse-throttled"]
        return list(map(str, words))
