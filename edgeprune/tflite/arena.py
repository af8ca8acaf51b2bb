"""How much memory a runtime takes for the activations of a `.tflite`, planned as it plans them.

TensorFlow Lite gives every tensor a place in one block before it runs: tensors that live from
beginning to end first, then the largest, each at the lowest place where no tensor lies that is
alive at the same time. Inputs stay alive to the end; states (`variable`) lie in a block of their
own; constants stay in the file. Scratch space of single kernels is not in the file and not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from edgeprune.tflite.flatbuffer import operator_kind, parse_model, type_name

ALIGNMENT = 64
_BYTES = {"int8": 1, "uint8": 1, "bool": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2}
_WIDE = {"int64": 8, "uint64": 8, "float64": 8, "complex64": 8, "complex128": 16}
_LOOKS = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE", "BITCAST")
"""Operators whose output is their input under another shape."""
_IN_PLACE = {"ADD": 2, "SUB": 2, "MUL": 2, "DIV": 2, "SOFTMAX": 1, "DYNAMIC_UPDATE_SLICE": 1}
"""Operators that may write over one of their first so many inputs, where nobody else reads it."""
_FOREVER = 2**31


def peak_memory(content: bytes) -> int:
    """Return the bytes that a runtime allocates for inputs, outputs and what lies between them.

    Args:
        content: of a `.tflite`.

    Raises:
        ModelError: it is damaged.

    Example:
        >>> peak_memory(open("model.tflite", "rb").read())   # doctest: +SKIP
        331776
    """
    return plan_memory(parse_model(content))


def plan_memory(parsed: Any) -> int:
    """Return the same of a `ModelT`; loops and branches (further subgraphs) have blocks too."""
    return sum(_plan(parsed, subgraph) for subgraph in parsed.subgraphs)


def _plan(parsed: Any, subgraph: Any) -> int:
    tensors = subgraph.tensors
    # Constants have a place in the file.
    sizes = {
        index: _count_bytes(tensor)
        for index, tensor in enumerate(tensors)
        if parsed.buffers[tensor.buffer].data is None
    }
    states = [index for index, tensor in enumerate(tensors) if tensor.isVariable]
    operators = [
        (
            operator_kind(parsed, operator),
            [int(index) for index in operator.inputs if index >= 0],
            [int(index) for index in operator.outputs if index >= 0],
        )
        for operator in subgraph.operators
    ]
    ends = [int(index) for index in (*subgraph.inputs, *subgraph.outputs) if index >= 0]
    origin = _share(operators, sizes, Counter([*ends, *states]), subgraph)
    first = dict.fromkeys((int(index) for index in subgraph.inputs if index >= 0), 0)
    last = dict.fromkeys([*first, *(origin.get(index, index) for index in ends)], _FOREVER)
    for number, (_, read, written) in enumerate(operators):
        for index in written:
            first.setdefault(origin.get(index, index), number)
        for index in read:
            home = origin.get(index, index)
            last[home] = max(last.get(home, 0), number)
    placed: list[tuple[int, int, int, int]] = []
    order = [index for index in first if index in sizes and index not in states]

    def rank(index: int) -> tuple[int, ...]:
        if first[index] == 0 and last.get(index, _FOREVER) == _FOREVER:
            return 0, index
        return 1, -sizes[index], first[index]

    for index in sorted(order, key=rank):
        placed.append(_place(placed, sizes[index], first[index], last.get(index, _FOREVER)))
    fixed = sum(_align(sizes[index]) for index in states)
    return fixed + max((offset + size for offset, size, _, _ in placed), default=0)


def _share(
    operators: list[tuple[str, list[int], list[int]]],
    sizes: dict[int, int],
    readers: Counter[int],
    subgraph: Any,
) -> dict[int, int]:
    """Return for each output that lies where an input lies the tensor whose place it is."""
    for _, read, _ in operators:
        readers.update(read)
    given, answered = set(map(int, subgraph.inputs)), set(map(int, subgraph.outputs))
    origin: dict[int, int] = {}
    for kind, read, written in operators:
        looks = kind in _LOOKS
        for index in read[: 1 if looks else _IN_PLACE.get(kind, 0)]:
            out = written[0]
            alone = sizes.get(index) == sizes[out] > 4 and readers[index] == 1
            if index not in sizes or index in given or out in answered or not (looks or alone):
                continue
            home = origin.get(index, index)
            if looks or readers[home] <= 1:
                origin[out] = home
            break
    return origin


def _place(
    placed: list[tuple[int, int, int, int]], size: int, first: int, last: int
) -> tuple[int, int, int, int]:
    """Return the smallest gap that is wide enough among those that are alive at the same time."""
    best, gap, end = None, math.inf, 0
    for offset, length, start, stop in sorted(placed):
        if start > last or stop < first:
            continue
        here = _align(end)
        if here + size <= offset and offset - here < gap:
            best, gap = here, offset - here
        end = max(end, offset + length)
    return (_align(end) if best is None else best), size, first, last


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _count_bytes(tensor: Any) -> int:
    kind = type_name(tensor)
    shape = () if tensor.shape is None else tensor.shape
    return (_BYTES | _WIDE).get(kind, 4) * math.prod(abs(int(size)) for size in shape)
