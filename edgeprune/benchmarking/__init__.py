"""Measuring on targets, seen from the host: transports, runs of the harness, and what they gave."""

from __future__ import annotations

from edgeprune.benchmarking.measurement_settings import Measurement
from edgeprune.benchmarking.measurements import BenchInterrupted, BenchResult, MeasuredModel
from edgeprune.benchmarking.profiles import Profile
from edgeprune.benchmarking.runs import bench, profile
from edgeprune.benchmarking.ssh import SshTransport
from edgeprune.energy.windowed_energy import Energy

__all__ = [
    "BenchInterrupted",
    "BenchResult",
    "Energy",
    "MeasuredModel",
    "Measurement",
    "Profile",
    "SshTransport",
    "bench",
    "profile",
]
