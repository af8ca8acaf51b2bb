"""Where the time goes, without a profiler: a model that ends after its first operators, timed.

A model is cut by changing three places in its bytes: the number of operators, the outputs, and the
number of signatures, which would name outputs that are not computed.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Callable

import interpreter
import numpy as np
import timing

SUBGRAPHS, SIGNATURES = 2, 7  # fields of Model in TensorFlow Lite's schema
OUTPUTS, OPERATORS = 2, 3  # of SubGraph
READS, MAKES = 1, 2  # of Operator
ROUNDS = 6
FEWEST_RUNS = 2


class Graph:
    """The main graph of a model, by the places of its parts in the bytes.

    Attributes:
        count: of its operators.
    """

    def __init__(self, content: bytes) -> None:
        """Find the parts."""
        self._content = content
        root = self._read("<I", 0)
        subgraphs = self._follow(root, SUBGRAPHS)
        graph = subgraphs + 4 + self._read("<I", subgraphs + 4)
        self._signatures = self._follow(root, SIGNATURES)
        self._outputs_field = self._field(graph, OUTPUTS)
        self._operators = self._follow(graph, OPERATORS)
        self.count = self._read("<I", self._operators)
        places = [self._operators + 4 * (index + 1) for index in range(self.count)]
        operators = [place + self._read("<I", place) for place in places]
        self._reads = [self._indices(operator, READS) for operator in operators]
        self._makes = [self._indices(operator, MAKES) for operator in operators]
        self._outputs = self._indices(graph, OUTPUTS)

    def cut(self, count: int) -> bytes:
        """Return the model of the first operators; what they make and do not use is its output."""
        used = {index for reads in self._reads[:count] for index in reads}
        made = [index for makes in self._makes[:count] for index in makes if index >= 0]
        ends = [index for index in made if index not in used or index in self._outputs]
        content = bytearray(self._content)
        content.extend(b"\0" * (-len(content) % 4))
        struct.pack_into("<I", content, self._operators, count)
        if self._signatures:
            struct.pack_into("<I", content, self._signatures, 0)
        struct.pack_into("<I", content, self._outputs_field, len(content) - self._outputs_field)
        return bytes(content) + struct.pack(f"<I{len(ends)}i", len(ends), *ends)

    def _read(self, form: str, place: int) -> int:
        return struct.unpack_from(form, self._content, place)[0]

    def _field(self, table: int, number: int) -> int:
        """Return where a field of a table is; 0 for one that is left out."""
        listing = table - self._read("<i", table)
        place = 4 + 2 * number
        if place >= self._read("<H", listing):
            return 0
        offset = self._read("<H", listing + place)
        return table + offset if offset else 0

    def _follow(self, table: int, number: int) -> int:
        field = self._field(table, number)
        return field + self._read("<I", field) if field else 0

    def _indices(self, table: int, number: int) -> list[int]:
        place = self._follow(table, number)
        if not place:
            return []
        return list(struct.unpack_from(f"<{self._read('<I', place)}i", self._content, place + 4))


def measure(
    path: str,
    options: argparse.Namespace,
    accelerator: tuple[str, str] | None,
    stopped: Callable[[], bool],
    report: Callable[[float], None],
) -> list[list[float]] | None:
    """Time a model that ends after its first operator, its second, and so on to the whole.

    One is open at a time. Every round goes through all of them, back and forth, so that a clock
    that drifts does not look like an operator.

    Args:
        path: of the model.
        options: with the threads of the runtime, and seconds of timed runs, about.
        accelerator: library and device of the Edge TPU, for a model that is compiled for it.
        stopped: whether to stop.
        report: is told how far it is.

    Returns:
        The median milliseconds of every round, for every number of operators from one, and then
        for the model as it is; None if it was stopped.
    """
    with open(path, "rb") as file:
        content = file.read()
    graph = Graph(content)
    parts = graph.count + 1
    medians: list[list[float]] = [[] for _ in range(parts)]
    share = options.seconds / ROUNDS / parts
    for number in range(ROUNDS):
        for done, index in enumerate(range(parts)[:: 1 if number % 2 == 0 else -1]):
            if stopped():
                return None
            cut = graph.cut(index + 1) if index < graph.count else content
            model = interpreter.Model(path, options.threads, accelerator, cut)
            model.fill_inputs()
            model.run()
            timing.settle(model.run)
            samples, end = [], time.perf_counter() + share
            while len(samples) < FEWEST_RUNS or time.perf_counter() < end:
                samples.append(timing.time_once(model.run))
            medians[index].append(float(np.median(samples)))
            report((number + (done + 1) / parts) / ROUNDS)
    return medians
