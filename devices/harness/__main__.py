"""Measure `.tflite` models on the machine this runs on: `python -I harness model.tflite ...`.

Needs NumPy and a TensorFlow Lite runtime. Standard output is one JSON document, described in
measurement.schema.json; standard error has one JSON line per step: {"stage": ..., "done": 0..1}.
"""

from __future__ import annotations

import os
import sys

# Before NumPy is imported: its own threads would show up in the memory of every model.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
if sys.version_info < (3, 9):  # noqa: UP036, it is run by whatever a board has
    sys.exit("the harness needs Python 3.9 or newer, this is " + sys.version.split()[0])

import contextlib  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable  # noqa: E402

from arguments import read_arguments  # noqa: E402

SCHEMA_VERSION = 1
FAILED = 2


def main(arguments: list[str]) -> int:
    """Measure, print the document, return the exit status."""
    options = read_arguments(arguments, (__doc__ or "").splitlines()[0])
    if options.cold:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
        import cold

        accelerator = (options.delegate, options.device) if options.delegate else None
        return answer(lambda: cold.measure(options.models[0], options.threads, accelerator))
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    if options.watch_stdin:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    if options.record:
        import recording

        return answer(lambda: recording.record(options.record, options.period, received.__len__))
    if options.clock:
        import recording

        return recording.answer_with_the_time()
    import session

    work = session.count if options.count else session.measure
    status = answer(lambda: work(options, lambda: bool(received)))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
