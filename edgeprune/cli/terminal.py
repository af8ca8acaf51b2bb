"""What a command shows: progress on stderr while it works, its result on stdout at the end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.text import Text

from edgeprune.support.printable import printable
from edgeprune.support.progress import Advance, showing
from edgeprune.support.standard_error import captured_stderr

if TYPE_CHECKING:
    from edgeprune.building import Built

SHOWN_AFTER_SECONDS = 0.05


@contextlib.contextmanager
def working(quiet: bool) -> Iterator[None]:
    """Keep the remarks of frameworks off the terminal, and what anyone prints off stdout."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(captured_stderr())
        for logger in map(logging.getLogger, ("absl", "tensorflow")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        own, handler = logging.getLogger("edgeprune"), _Warnings(logging.WARNING)
        stack.callback(own.removeHandler, handler)
        own.addHandler(handler)
        stack.enter_context(warnings.catch_warnings())
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        elsewhere = stack.enter_context(open(os.devnull, "w")) if quiet else sys.stderr
        stack.enter_context(contextlib.redirect_stdout(elsewhere))
        if not quiet:
            stack.enter_context(showing(TerminalProgress()))
        yield


class Terminal(Console):
    """Shows text as it is, `[conv]` is no markup, and nothing that a terminal would obey."""

    def __init__(self, stderr: bool = False) -> None:
        """Write to stdout, or to stderr."""
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Show a text that is no sentence of ours, such as a cell, in one line."""
        return super().render_str(printable(text), **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Show everything else with the lines it has."""
        for segment in super().render(renderable, options):
            text = "\n".join(map(printable, segment.text.split("\n")))
            yield segment if segment.control else segment._replace(text=text)


class _Warnings(logging.Handler):
    """What the library warns of, while a command runs."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def warn(text: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"Warning: {printable(text)}", err=True)


class TerminalProgress:
    """One bar per running stage; a finished outermost stage leaves a line with its time."""

    def __init__(self) -> None:
        """Draw on stderr; without a terminal only the lines of finished stages are written."""
        self.console = Terminal(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            _Count(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._depth = 0
        self._remark = ""
        self._running: list[tuple[TaskID, str]] = []

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Show a stage while the block runs."""
        if self._depth == 0 and not self._bars.disable:
            self._bars.start()
        self._depth += 1
        name = printable(name)
        task = self._bars.add_task(name, total=total)
        self._running.append((task, name))
        start = time.perf_counter()
        try:
            yield lambda: self._bars.advance(task)
            elapsed = time.perf_counter() - start
            if self._depth == 1 and (self._remark or elapsed > SHOWN_AFTER_SECONDS):
                line = f"  {name:<34}{elapsed:6.1f} s  {self._remark}".rstrip()
                self.console.print(line, style="dim", soft_wrap=True)
        finally:
            self._running.remove((task, name))
            self._remark = ""
            self._bars.remove_task(task)
            self._depth -= 1
            if self._depth == 0 and not self._bars.disable:
                self._bars.stop()  # rich before 14.3 writes an empty line even where disabled

    def remark(self, text: str) -> None:
        """Show a text beside the name of the innermost stage, and beside its time at the end."""
        self._remark = text
        task, name = self._running[-1]
        self._bars.update(task, description=f"{name}: {text}")


class _Count(ProgressColumn):
    """How far a stage has come, where it counts its steps."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


def show(
    value: Callable[[], Any], table: Callable[[], RenderableType], as_json: bool, quiet: bool
) -> None:
    """Print a result.

    Args:
        value: gives it as JSON types.
        table: gives it for people.
        as_json: which of the two.
        quiet: no table.
    """
    if as_json:
        click.echo(json.dumps(value(), indent=1))
    elif not quiet:
        Terminal().print(table())


def show_values(values: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Print what a command found, as JSON or as a table of names and values."""
    from edgeprune.report.tables import describe_values

    show(lambda: values, lambda: describe_values(values), as_json, quiet)


def show_built(built: Built, as_json: bool, quiet: bool) -> None:
    """Print what a build made; warnings go to stderr, also when it is to be quiet."""
    from edgeprune.report import describe_files, describe_outcome

    outcome = built.outcome
    for warning in outcome.warnings:
        warn(warning)

    def table() -> RenderableType:
        return Group(describe_outcome(outcome), describe_files(built.folder, outcome.files))

    show(outcome.to_dict, table, as_json, quiet)
