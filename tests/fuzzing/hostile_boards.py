"""Boards that lie, babble, fall silent or answer nonsense, made by the number.

In place of ssh stands a program that plays the board: it answers each script of `devices/remote` as
an honest board would, but for one thing that the seed decides. Whatever that is, a measurement ends
in figures that make sense or in one line, soon.
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from edgeprune.benchmarking import SshTransport, bench
from edgeprune.benchmarking.ssh import Patience
from edgeprune.errors import BenchmarkError

SECONDS = 30.0
"""In which a measurement must end."""
ENDLESS = "endless"
QUICK = Patience(
    poll_seconds=0.01, lost_seconds=0.3, silent_seconds=1.0, stop_seconds=1.0, clock_seconds=0.3
)
SSH = """#!{python} -SE
import json, os, shlex, sys, time
words = shlex.split(sys.argv[-1])
name = "clock" if "--clock" in words else words[4] if len(words) > 4 else "exit"
say = json.load(open({spec!r})).get(name, {{}})
time.sleep(say.get("sleep", 0))
stream = {{"out": 1, "error": 2}}
for key, number in stream.items():
    text = bytes.fromhex(say.get(key, ""))
    while text:
        os.write(number, text)
        if not say.get("endless"):
            break
if name == "clock" and "out" not in say:
    for line in sys.stdin:
        print(json.dumps({{"monotonic": time.monotonic() + 5}}), flush=True)
sys.exit(say.get("status", 0))
"""


def honest_document(models: int = 1) -> dict[str, Any]:
    """Return what a harness answers that measured."""
    state = {
        "load_average": [0.1, 0.1, 0.1], "governors": ["performance"], "frequencies_mhz": [1500],
        "highest_mhz": [1500], "temperatures_c": {"cpu": 50.5}, "supply_volts": None,
    }  # fmt: skip
    samples = [2.0, 2.5, 3.0]
    model = {
        "file": "model.tflite", "size_bytes": 100, "sha256": "0" * 64,
        "delegate": None,
        "profile": None,
        "cold": {
            "load_ms": 1.0, "first_ms": 2.0, "memory_before_bytes": 10, "memory_peak_bytes": 20,
        },
        "warmup": {"runs": 5, "seconds": 0.1, "steady": True, "median_ms": 2.5},
        "latency": {
            "count": 3, "min_ms": 2.0, "p50_ms": 2.5, "p90_ms": 2.9, "p99_ms": 3.0, "mean_ms": 2.5,
            "samples_ms": samples,
        },
        "accuracy": {"count": 4, "correct": 3, "outputs_sha256": "1" * 64},
    }  # fmt: skip
    machine = {
        "board": "A board", "cpu": None, "architecture": "aarch64", "cores": 4, "usable_cores": 4,
        "memory_bytes": 2**30, "kernel": "6.1", "system": "Linux",
    }  # fmt: skip
    software = {"runtime": "r", "runtime_version": "1", "python": "3.11", "numpy": "2"}
    return {
        "schema_version": 1,
        "interrupted": False,
        "settings": {"threads": 1, "runs": 3, "seconds": 1.0, "warmup_seconds": 1.0},
        "environment": {
            "machine": machine, "software": software, "before": state, "after": state,
            "throttling": {"watched": [], "reasons": []},
        },
        "process": {"tensorflow_loaded": False, "memory_peak_bytes": 100},
        "models": [copy.deepcopy(model) for _ in range(models)],
        "energy": None,
    }  # fmt: skip


def honest_board() -> dict[str, dict[str, Any]]:
    """Return what a board says to each script: `out` and `error` in hexadecimal, and `status`."""
    text = {
        "probe": "aarch64\n/usr/bin/python3\t3.11.2\tnumpy\tai_edge_litert\n",
        "prepare": "/tmp/edgeprune-run\n",
        "poll": '{"done": 0.5}\n{"done": 1.0}\n\x1e0',
        "fetch": json.dumps(honest_document()),
        "space": "1000000",
    }
    return {name: {"out": said.encode().hex()} for name, said in text.items()}


NONSENSE: tuple[Any, ...] = (
    None, True, -1, 0, 10**40, 1e308, math.nan, math.inf, -math.inf, "", "5", "\x1b[31mred\n",
    "x" * 5000, [], {}, [[]], [1.0, "2"], {"a": {}},
)  # fmt: skip
RAW = (
    b"", b"\n", b"\xff\xfe\x00", b"[" * 100_000, b"{}", b"[]", b"null", b"7", b'"text"', b"NaN",
    b'{"schema_version": 2}', b'{"schema_version": 1, "error": 5}', b'{"schema_version": 1e999}',
    b'{"schema_version": 1, "error": "a\\nb"}', b"9" * 10_000, b"\x1e", b"\x1e\x1e0", b"\x1e-",
    b"\x1eword", b"\x1e" + b"9" * 5000, b'{"done": 1e300}\n\x1e0', b'{"done": NaN}\n\x1e0',
    b'{"done": -5}\n\x1e0', b'{"done": []}\n\x1e0', b'{"monotonic": NaN}\n',
    b'{"monotonic": "soon"}\n', b"[1]\n", b'{"monotonic": 1e999}\n',
)  # fmt: skip


def corrupt_document(random: Random) -> str:
    """Return the document with some of its entries gone, added or of another type."""
    document = honest_document()
    for _ in range(random.choice([1, 1, 2, 5])):
        places = list(_places(document))
        holder, key = random.choice(places)
        way = random.choice(["drop", "replace", "replace", "add"])
        if way == "drop":
            del holder[key]
        elif way == "replace":
            holder[key] = copy.deepcopy(random.choice(NONSENSE))
        elif isinstance(holder, dict):
            holder["unknown"] = copy.deepcopy(random.choice(NONSENSE))
        else:
            holder.append(copy.deepcopy(random.choice(NONSENSE)))
    return json.dumps(document)


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def hostile_board(seed: int) -> dict[str, dict[str, Any]]:
    """Return a board that is honest but for one script."""
    random, board = Random(seed), honest_board()
    if random.random() < 0.4:
        board["fetch"]["out"] = corrupt_document(random).encode().hex()
        return board
    name = random.choice(["probe", "prepare", "unpack", "clock", "start", "poll", "fetch", "fetch"])
    way = random.choice(["raw", "raw", "raw", ENDLESS, "silent", "status", "noise"])
    said = board.setdefault(name, {})
    if way == "raw":
        said["out"] = random.choice(RAW).hex()
    elif way == ENDLESS:
        text = random.choice([b"\xff" * 65536, b'{"done": 0.5}\n' * 4096, b"\x00" * 65536])
        said |= {random.choice(["out", "error"]): text.hex(), ENDLESS: True}
    elif way == "silent":
        said |= {"out": "", "sleep": 3600 if name == "clock" else 0}
    elif way == "status":
        said["status"] = random.choice([1, 2, 3, 127, 255])
    else:
        said["out"] = random.randbytes(random.choice([1, 100, 10_000])).hex()
    return board


def measure_on(board: dict[str, dict[str, Any]], folder: Path) -> Any:
    """Measure a model on a board that is played.

    Args:
        board: what it says.
        folder: for the program that plays it.
    """
    spec, program, model = folder / "board.json", folder / "ssh", folder / "model.tflite"
    spec.write_text(json.dumps(board))
    program.write_text(SSH.format(python=sys.executable, spec=str(spec)))
    program.chmod(0o755)
    model.write_bytes(b"\0\0\0\0TFL3" + b"\0" * 32)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    with mock.patch.dict(os.environ, PATH=path):
        return bench(model, transport=SshTransport("board", patience=QUICK), seconds=1, runs=10)


def check(seed: int) -> None:
    """Measure on the hostile board of a seed; what it ends in must make sense, and come soon."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(tempfile, "tempdir", folder):
            try:
                check_result(measure_on(hostile_board(seed), Path(folder)))
            except BenchmarkError as error:
                assert error.exit_code == 2
                assert len(str(error)) < 600, str(error)
        left = {path.name for path in Path(folder).iterdir()}
        assert left == {"board.json", "ssh", "model.tflite"}, left
    assert time.monotonic() - begun < SECONDS


def check_result(result: Any) -> None:
    """Refuse figures that no board has."""
    for entry in result.measurements:
        figures = [entry.min_ms, entry.p50_ms, entry.p90_ms, entry.p99_ms, entry.mean_ms]
        figures += [entry.load_ms, entry.first_ms, *entry.samples_ms]
        assert all(type(value) in (int, float) and 0 <= value < 1e9 for value in figures), figures
        assert entry.accuracy is None or 0 <= entry.accuracy <= 1
    json.dumps(result.to_dict(), allow_nan=False)
    assert str(result) if result.measurements else True
