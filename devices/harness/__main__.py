"""Measure `.tflite` models on the machine this runs on: `python -I harness model.tflite ...`.

Needs NumPy and a TensorFlow Lite runtime. Standard output is one JSON document, described in
measurement.schema.json; standard error has one JSON line per step: {"stage": ..., "done": 0..1}.
"""

from __future__ import annotations

import os

# Before NumPy is imported: its own threads would show up in the memory of every model.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable  # noqa: E402

SCHEMA_VERSION = 1
FAILED = 2


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(prog="harness", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="path of a .tflite file")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default 1)")
    parser.add_argument("--runs", type=int, default=1000, help="timed per model (default 1000)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="fewer runs if a model needs longer (default 5)"
    )
    parser.add_argument(
        "--warmup", type=float, default=2.0, help="most seconds until steady (default 2)"
    )
    parser.add_argument(
        "--watch-stdin", action="store_true", help="end when standard input is closed"
    )
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.threads < 1 or options.runs < 1 or options.seconds <= 0 or options.warmup < 0:
        parser.error("threads, runs and seconds must be positive")
    return options


def main(arguments: list[str]) -> int:
    """Measure, print the document, return the exit status."""
    options = read_arguments(arguments)
    if options.cold:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
        return answer(lambda: measure_alone(options))
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    if options.watch_stdin:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    status = answer(lambda: measure(options, lambda: bool(received)))
    return 128 + received[0] if received and status == 0 else status


def end_with_stdin() -> None:
    """Stop when whoever holds the other end of standard input is gone."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def answer(make_document: Callable[[], dict]) -> int:
    """Print what the function returns; a failure becomes a document with one line."""
    try:
        document, status = make_document(), 0
    except (OSError, ImportError, MemoryError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        document, status = {"error": reason}, FAILED
    with contextlib.suppress(BrokenPipeError):
        json.dump({"schema_version": SCHEMA_VERSION, **document}, sys.stdout)
        print(flush=True)
    return status


def measure_alone(options: argparse.Namespace) -> dict:
    """Measure what only a fresh process can tell."""
    import cold

    return cold.measure(options.models[0], options.threads)


def measure(options: argparse.Namespace, stopped: Callable[[], bool]) -> dict:
    """Measure all models; when `stopped` becomes true, return what there is."""
    import cold
    import environment
    import interpreter
    import timing

    paths = options.models
    files = [interpreter.check_file(path) for path in paths]
    before = environment.read_state()
    alone = []
    for index, path in enumerate(paths):
        report(f"loading {os.path.basename(path)}", 0.2 * index / len(paths))
        alone.append(None if stopped() else cold.measure_in_own_process(path, options.threads))
    models = [interpreter.Model(path, options.threads) for path in paths]
    for model in models:
        model.fill_inputs()

    warmups = []
    for index, model in enumerate(models):
        report(f"warming up {os.path.basename(model.path)}", 0.2 + 0.2 * index / len(models))
        warmups.append(timing.warm_up(model.run, options.warmup, stopped))
    counts = [
        timing.plan_runs(warmup["median_ms"], options.runs, options.seconds) for warmup in warmups
    ]
    series = timing.interleave(
        [model.run for model in models],
        counts,
        stopped,
        lambda done: report("timing", 0.4 + 0.6 * done),
    )
    report("done", 1.0)
    return {
        "interrupted": stopped(),
        "settings": {
            "threads": options.threads,
            "runs": options.runs,
            "seconds": options.seconds,
            "warmup_seconds": options.warmup,
        },
        "environment": {
            "machine": environment.read_machine(),
            "software": environment.read_software(),
            "before": before,
            "after": environment.read_state(),
        },
        "process": {"tensorflow_loaded": "tensorflow" in sys.modules},
        "models": [
            {**file, "cold": start, "warmup": warmup, "latency": timing.summarize(samples)}
            for file, start, warmup, samples in zip(files, alone, warmups, series)  # noqa: B905, strict needs Python 3.10
        ],
    }


def report(stage: str, done: float) -> None:
    """Write one line of progress."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"stage": stage, "done": round(done, 3)}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
