"""A model in a process of its own: loading, the first inference and peak memory.

A process that holds several models can tell none of these apart.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time

import edgetpu
import interpreter
import program


def measure(path: str, threads: int, accelerator: tuple[str, str] | None) -> dict:
    """Load and run one model once in this process, which must be fresh."""
    interpreter.find_runtime()
    before = read_memory("VmRSS")
    start = time.perf_counter()
    model = interpreter.Model(path, threads, accelerator)
    loaded = time.perf_counter()
    model.fill_inputs()
    first = time.perf_counter()
    model.run()
    end = time.perf_counter()
    return {
        "load_ms": 1e3 * (loaded - start),
        "first_ms": 1e3 * (end - first),
        "memory_before_bytes": before,
        "memory_peak_bytes": read_memory("VmHWM"),
    }


def measure_in_own_process(
    path: str, threads: int, accelerator: tuple[str, str] | None = None
) -> dict:
    """Start this program again for one model and return its answer."""
    command = [*program.repeat_command(), "--cold", "--threads", str(threads)]
    if accelerator:
        command += ["--delegate", accelerator[0], "--device", accelerator[1]]
    command.append(path)
    child = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        document = json.loads(child.stdout)
    except ValueError:
        document = {"error": f"the process for {path} {describe_end(child.returncode)}"}
        if accelerator and child.returncode < 0:
            runtime = " ".join(interpreter.find_runtime()[1])
            library = os.path.basename(accelerator[0])
            document["error"] += f": {library} does not fit {runtime}; {edgetpu.PAIRS}"
    if "error" in document:
        raise RuntimeError(document["error"])
    del document["schema_version"]
    return document


def describe_end(status: int) -> str:
    """Say how a process ended that gave no answer."""
    if status >= 0:
        return f"ended with {status}"
    return f"crashed ({signal.Signals(-status).name})"


def read_memory(field: str, status: str = "/proc/self/status") -> int:
    """Return VmRSS (now) or VmHWM (peak) in bytes.

    Not ru_maxrss where /proc exists: Linux carries it over from the process that started this one.
    """
    try:
        with open(status) as lines:
            for line in lines:
                if line.startswith(field + ":"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
