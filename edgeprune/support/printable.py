"""Text from files, boards and frameworks as a terminal may show it: one line, nothing but text."""

from __future__ import annotations

import re

MOST_CHARACTERS = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WRAPPING = re.compile(
    r"Exception encountered when calling [^\n]*\n|Arguments received by .*", re.S
)
_SPACES_AND_JOINERS = "\xa0\u3000\u200c\u200d"


def printable(text: str) -> str:
    r"""Return a text in which whatever is no visible character is written as an escape.

    Names from files may hold newlines and sequences that a terminal obeys.

    Example:
        >>> print(printable("conv\x1b[31m\nError: none"))
        conv\x1b[31m\nError: none
    """
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in _SPACES_AND_JOINERS
        else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


def one_line(error: BaseException) -> str:
    r"""Return what an error of a framework says, in one line of bounded length without a full stop.

    Example:
        >>> one_line(ValueError("Exception encountered when calling Add.call().\n\n\x1b[1mBad.\n"))
        'Bad'
    """
    text = _COLOURS.sub("", str(error))
    found = " ".join(_WRAPPING.sub("", text).split()) or " ".join(text.split())
    return printable(found or type(error).__name__)[:MOST_CHARACTERS].rstrip(". ")
