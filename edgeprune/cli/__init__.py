"""The command line: `edgeprune build | inspect | prune | convert | bench | demo | methods | targets`.

Commands import what they need when they run, so that `--help` needs neither Keras nor TensorFlow.
"""

from __future__ import annotations

import sys

from edgeprune.cli.commands import edgeprune

INTERRUPTED = 130


def main() -> None:
    """Run the command line; user errors are one line and exit code 2, Ctrl-C is 130."""
    from edgeprune.cli.failures import explain

    try:
        edgeprune(standalone_mode=False)
    except BaseException as error:
        code, message = explain(error)
        if code is None:
            raise
        if message:
            print(message, file=sys.stderr)
        sys.exit(code)


__all__ = ["edgeprune", "main"]
