"""What the command line says and returns when something goes wrong."""

from __future__ import annotations

import errno

import click

from edgeprune.errors import EdgepruneError

USAGE = 2
INTERRUPTED = 130
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain(error: BaseException) -> tuple[int | None, str]:
    """Return the exit code and the line for an error; the code is `None` for a bug of ours.

    Args:
        error: what stopped the command.

    Example:
        >>> explain(EdgepruneError("The folder is empty."))
        (2, 'Error: The folder is empty.')
    """
    if isinstance(error, (KeyboardInterrupt, click.exceptions.Abort)):
        return INTERRUPTED, "Interrupted. Nothing was left half-written."
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code, ""
    if isinstance(error, click.ClickException):
        return error.exit_code, f"Error: {error.format_message()}"
    if isinstance(error, EdgepruneError):
        return error.exit_code, f"Error: {error}"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return USAGE, f"Error: The disk is full ({error.strerror}). Nothing was left half-written."
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return USAGE, (
            f"Error: This command needs {error.name}, which is not installed. Install the extra: "
            "pip install 'edgeprune[tensorflow]'"
        )
    if isinstance(error, SystemExit):
        return int(error.code or 0) if isinstance(error.code, int | None) else 1, ""
    return None, ""


_EXTRAS = ("keras", "tensorflow", "scipy", "PIL", "h5py", "sklearn", "tf_keras")
