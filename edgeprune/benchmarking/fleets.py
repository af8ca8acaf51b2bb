"""Several boards at the same time, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from threading import Event
from typing import Any

from edgeprune.benchmarking.measurements import BenchInterrupted, BenchResult
from edgeprune.errors import EdgepruneError
from edgeprune.support.progress import naming


@dataclass(frozen=True)
class FleetResult:
    """What came of measuring on several boards.

    Attributes:
        results: by host, of the boards that answered.
        failures: by host, why the others did not.
    """

    results: Mapping[str, BenchResult]
    failures: Mapping[str, str]

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped one of the runs."""
        return any(result.interrupted for result in self.results.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        results = {host: result.to_dict() for host, result in self.results.items()}
        return {"hosts": results, "failures": dict(self.failures)}


def measure_on_all(
    measure: Callable[[str, Event], BenchResult], hosts: Sequence[str]
) -> FleetResult:
    """Measure on all boards; one that fails does not stop the others.

    Ctrl-C ends all runs with what they have.

    Args:
        measure: measures on one host, and ends with what it has when the event is set.
        hosts: as ssh takes them, no two the same.

    Raises:
        KeyboardInterrupt: the user stopped it before any board had measured anything.
    """
    stop = Event()

    def run(host: str) -> BenchResult | str | None:
        with naming(host):
            try:
                return measure(host, stop)
            except BenchInterrupted as interruption:
                return interruption.result
            except KeyboardInterrupt:
                return None
            except EdgepruneError as error:
                return str(error)

    with ThreadPoolExecutor(len(hosts)) as pool:
        futures: dict[str, Future[BenchResult | str | None]] = {}
        try:
            for host in hosts:
                futures[host] = pool.submit(copy_context().run, run, host)
            wait(futures.values())
        except BaseException as error:
            stop.set()
            wait(futures.values())
            if not isinstance(error, KeyboardInterrupt):
                raise
    found = {host: future.result() for host, future in futures.items()}
    results = {host: each for host, each in found.items() if isinstance(each, BenchResult)}
    failures = {host: each for host, each in found.items() if isinstance(each, str)}
    if stop.is_set() and not results:
        raise KeyboardInterrupt
    return FleetResult(results, failures)
