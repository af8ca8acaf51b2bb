"""The command line: build, inspect, prune, check, convert, compile, bench, calibrate and more.

Commands import what they need when they run, so that `--help` needs neither Keras nor TensorFlow.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; user errors are one line and exit code 2, Ctrl-C is 130.

    Args:
        arguments: without the name of the program; by default those of this process.

    Raises:
        SystemExit: with the exit code, unless all went well.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments is None:  # first: libraries may start threads, which a fork leaves behind
            from edgeprune.cli.supervision import supervise

            supervise()
        from edgeprune.cli.commands import edgeprune
        from edgeprune.cli.failures import clean_up_when_terminated

        with clean_up_when_terminated():
            edgeprune(given, prog_name="edgeprune", standalone_mode=False, obj=given)
    except BaseException as error:
        from edgeprune.cli.failures import explain

        code, message = explain(error)
        if code is None:
            raise
        if message:
            print(message, file=sys.stderr)
        sys.exit(code)


__all__ = ["main"]
