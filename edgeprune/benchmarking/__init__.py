"""Measuring on targets, seen from the host: boards, runs of the harness, and what they gave."""

from __future__ import annotations

from edgeprune.benchmarking.measurements import BenchInterrupted, BenchResult, Measurement
from edgeprune.benchmarking.runs import bench
from edgeprune.benchmarking.ssh import SshTransport
from edgeprune.boards.target_files import find_own_targets, find_target, list_targets, read_target
from edgeprune.boards.targets import Figure, Target
from edgeprune.energy.windowed_energy import Energy

__all__ = [
    "BenchInterrupted",
    "BenchResult",
    "Energy",
    "Figure",
    "Measurement",
    "SshTransport",
    "Target",
    "bench",
    "find_own_targets",
    "find_target",
    "list_targets",
    "read_target",
]
