"""The user's own Python code, imported because the user named it, never because a file does."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any

from edgeprune.errors import EdgepruneError


def import_object(text: str, option: str, kind: type[EdgepruneError]) -> Any:
    """Import a function or class; the current folder counts as part of the Python path.

    Args:
        text: `module:name`.
        option: that it was given with, for errors.
        kind: of the error to raise.

    Raises:
        EdgepruneError: of that kind: the module cannot be imported, ends the program, or has
            nothing of this name that can be called.

    Example:
        >>> import_object("math:sqrt", "--custom", EdgepruneError)(9)
        3.0
    """
    module_name, _, name = text.partition(":")
    if not (module_name and name):
        raise kind(f"{option} {text}: expected module:Name, such as my_layers:Swish.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except SystemExit as error:
        raise explain_exit(text, option, kind, error) from error
    except Exception as error:  # the module is the user's own code and may raise anything
        raise kind(
            f"{option} {text}: importing '{module_name}' failed "
            f"({type(error).__name__}: {error}). It must be in the current folder or on PYTHONPATH."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        callables = [other for other, value in vars(module).items() if callable(value)]
        close = difflib.get_close_matches(name, callables, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise kind(f"{option} {text}: '{module_name}' has no function or class '{name}'.{hint}")
    return found


def explain_exit(
    text: str, option: str, kind: type[EdgepruneError], error: SystemExit
) -> EdgepruneError:
    """Say that the user's code ended the program; a signal that does so passes."""
    if type(error) is not SystemExit:
        raise error
    return kind(
        f"{option} {text} ended the program (exit code {error.code}) instead of returning. Remove "
        "the call of exit()."
    )
