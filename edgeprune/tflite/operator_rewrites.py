"""Equal forms of the operators in a float `.tflite` that have none in integers, or a poor one.

Each is written as a few others, which the quantizer knows. Some only look as if it knew them:
log(exp(x) + 1) has values that 8 bits cannot hold, and a minimum narrows the scale of what others
read too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from edgeprune.tflite.flatbuffer import find_schema, operator_kind, type_name
from edgeprune.tflite.ranges import SAME_SCALE


def rewrite_operators(parsed: Any, scheme: str = "int8") -> None:
    """Write operators without a form in integers as others that have one, in a float model.

    Args:
        parsed: `ModelT` of a float `.tflite`, changed in place.
        scheme: the integers are for.
    """
    changes = OPERATORS | WITH_16_BITS if scheme == "int16x8" else OPERATORS
    for subgraph in parsed.subgraphs:
        readers = Counter(int(i) for operator in subgraph.operators for i in operator.inputs)
        readers.update(map(int, subgraph.outputs))
        editor = _Editor(parsed, subgraph, readers)
        for operator in list(subgraph.operators):
            change = changes.get(operator_kind(parsed, operator))
            if change is not None and editor.computes_in_float(operator):
                change(editor, operator)
            else:
                editor.operators.append(operator)
        subgraph.operators = editor.operators
    _drop_unused_codes(parsed)


def _drop_unused_codes(parsed: Any) -> None:
    """Drop kinds of operators that no operator is of: TensorFlow looks for their kernels."""
    operators = [operator for subgraph in parsed.subgraphs for operator in subgraph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    parsed.operatorCodes = [parsed.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


PICKING = frozenset({"MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2"})
"""Operators that narrow the scale of their input, by a constant beside it."""


def separate_readers(parsed: Any, kinds: Collection[str]) -> None:
    """Give operators of some kinds copies of their own of what others of `SAME_SCALE` read too.

    The quantizer settles on the scale of one of them, and then leaves others in float or gives up.

    Args:
        parsed: `ModelT` of a float `.tflite`, changed in place.
        kinds: among `SAME_SCALE`.
    """
    for subgraph in parsed.subgraphs:
        readers = Counter(
            int(index)
            for operator in subgraph.operators
            if operator_kind(parsed, operator) in SAME_SCALE
            for index in operator.inputs
        )
        editor = _Editor(parsed, subgraph, readers)
        for operator in subgraph.operators:
            if operator_kind(parsed, operator) in kinds:
                operator.inputs = [editor.copy(int(index)) for index in operator.inputs]
            editor.operators.append(operator)
        subgraph.operators = editor.operators


class _Editor:
    """Writes operators into a subgraph.

    Attributes:
        readers: how many operators read a tensor; an output of the model counts too.
        operators: those of the new subgraph so far.
    """

    def __init__(self, parsed: Any, subgraph: Any, readers: Counter[int]) -> None:
        self.parsed, self.subgraph, self.readers = parsed, subgraph, readers
        self.operators: list[Any] = []

    def computes_in_float(self, operator: Any) -> bool:
        tensors = (self.subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs))
        return any(type_name(tensor) == "float32" for tensor in tensors)

    def values(self, index: int, kind: str) -> np.ndarray:
        """Return what a constant holds, flat; nothing for a tensor that is computed."""
        stored = self.parsed.buffers[self.subgraph.tensors[index].buffer].data
        found = type_name(self.subgraph.tensors[index]) == kind and stored is not None
        return np.frombuffer(bytes(bytearray(stored)) if found else b"", kind)

    def maker(self, index: int, kind: str) -> Any:
        """Return the operator that makes a tensor, if it is of a kind and nobody else reads it."""
        made = next((it for it in self.operators if index in it.outputs), None)
        alone = made is not None and self.readers[index] == 1
        return made if alone and operator_kind(self.parsed, made) == kind else None

    def shape(self, index: int) -> list[int]:
        return [int(size) for size in self.subgraph.tensors[index].shape]

    def copy(self, index: int) -> int:
        """Return a tensor with the same values, where several read this one and it is computed.

        Times the next number to one: a product with one itself is taken out by the quantizer.
        """
        computed = type_name(self.subgraph.tensors[index]) == "float32"
        if self.readers[index] < 2 or not computed or self.values(index, "float32").size:
            return index
        made = self.like(index, f"copy_{len(self.operators)}")
        one = np.nextafter(np.float32(1), np.float32(2))
        self.add("MUL", [index, self.constant(np.array(one))], made)
        return made

    def constant(self, values: np.ndarray) -> int:
        """Add a constant of float32, int32 or int64; return its tensor."""
        schema = find_schema()
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.parsed.buffers.append(buffer)
        kind = getattr(schema.TensorType, values.dtype.name.upper())
        name = f"constant_{len(self.subgraph.tensors)}"
        return self._tensor(list(values.shape), kind, name, len(self.parsed.buffers) - 1)

    def like(self, index: int, what: str, kind: str = "float32") -> int:
        """Add a tensor of the same shape; return it."""
        name = f"{self.subgraph.tensors[index].name.decode()}/{what}"
        code = getattr(find_schema().TensorType, kind.upper())
        return self._tensor(self.shape(index), code, name, 0)

    def _tensor(self, shape: list[int], kind: int, name: str, buffer: int) -> int:
        tensor = find_schema().TensorT()
        tensor.shape = np.asarray(shape, np.int32)
        tensor.type, tensor.name, tensor.buffer = kind, name.encode(), buffer
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def add(self, kind: str, inputs: Sequence[int], output: int) -> None:
        """Add an operator with the options that its kind has by default."""
        schema = find_schema()
        operator = schema.OperatorT()
        operator.inputs, operator.outputs = list(inputs), [output]
        operator.opcodeIndex = self._code(getattr(schema.BuiltinOperator, kind))
        options = f"{kind.title().replace('_', '')}Options"
        if hasattr(schema, f"{options}T"):
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
        self.operators.append(operator)

    def _code(self, builtin: int) -> int:
        codes = self.parsed.operatorCodes
        for index, code in enumerate(codes):
            if code.builtinCode == builtin and not code.customCode:
                return index
        made = find_schema().OperatorCodeT()
        made.builtinCode, made.version = builtin, 1
        made.deprecatedBuiltinCode = min(builtin, 127)
        codes.append(made)
        return len(codes) - 1


def _negate(editor: _Editor, operator: Any) -> None:
    minus = editor.constant(np.array(-1, np.float32))
    editor.add("MUL", [operator.inputs[0], minus], operator.outputs[0])


def _square(editor: _Editor, operator: Any) -> None:
    editor.add("MUL", [operator.inputs[0]] * 2, operator.outputs[0])


def _exponential_unit(editor: _Editor, operator: Any) -> None:
    """Write ELU as max(x, 0) + (exp(x - max(x, 0)) - 1)."""
    (x,), (y,) = operator.inputs, operator.outputs
    positive, negative, grown, shifted = (
        editor.like(y, what) for what in ("positive", "negative", "exp", "shifted")
    )
    editor.add("RELU", [x], positive)
    editor.add("SUB", [x, positive], negative)
    editor.add("EXP", [negative], grown)
    editor.add("ADD", [grown, editor.constant(np.array(-1, np.float32))], shifted)
    editor.add("ADD", [positive, shifted], y)


def _not_equal(editor: _Editor, operator: Any) -> None:
    """Write a != b as |a - b| > 0, which asks nothing of the scale of a where others read it."""
    first, second = map(int, operator.inputs)
    (y,) = operator.outputs
    difference, zero = first, editor.values(second, "float32")
    if not zero.size or zero.any():
        difference = editor.like(y, "difference")
        editor.add("SUB", [first, second], difference)
    size = editor.like(y, "size")
    editor.add("ABS", [difference], size)
    editor.add("GREATER", [size, editor.constant(np.array(0, np.float32))], y)


def _normalize(editor: _Editor, operator: Any) -> None:
    """Write x / |x| over the last axis by squares; vectors of zeros stay zeros."""
    x, y = int(operator.inputs[0]), int(operator.outputs[0])
    square = editor.like(y, "square")
    total, floored, root = (editor.like(y, what) for what in ("total", "floored", "root"))
    shape = [*editor.shape(y)[:-1], 1]
    for index in (total, floored, root):
        editor.subgraph.tensors[index].shape = np.asarray(shape, np.int32)
    editor.add("MUL", [x, x], square)
    editor.add("SUM", [square, editor.constant(np.array([len(shape) - 1], np.int32))], total)
    options = editor.operators[-1]
    options.builtinOptionsType = find_schema().BuiltinOptions.ReducerOptions
    options.builtinOptions = find_schema().ReducerOptionsT()
    options.builtinOptions.keepDims = True
    editor.add("MAXIMUM", [total, editor.constant(np.array(1e-24, np.float32))], floored)
    editor.add("RSQRT", [floored], root)
    editor.add("MUL", [x, root], y)


def _square_difference(editor: _Editor, operator: Any) -> None:
    difference = editor.like(operator.outputs[0], "difference")
    editor.add("SUB", operator.inputs, difference)
    editor.add("MUL", [difference] * 2, operator.outputs[0])


def _select(editor: _Editor, operator: Any) -> None:
    """Bound exp(x) in `where(x > 0, ..., exp(x) ...)`: what is not selected decides no range."""
    condition, _, other = map(int, operator.inputs)
    compared = editor.maker(condition, "GREATER")
    inside = other
    while made := next(filter(None, (editor.maker(inside, kind) for kind in _AFFINE)), None):
        data, constant = map(int, made.inputs)
        inside = data if editor.values(constant, "float32").size else constant
    grown = editor.maker(inside, "EXP")
    editor.operators.append(operator)
    if compared is None or grown is None or compared.inputs[0] != grown.inputs[0]:
        return
    if editor.values(compared.inputs[1], "float32").tolist() != [0.0]:
        return
    x, y = grown.inputs[0], operator.outputs[0]
    positive, negative = editor.like(y, "positive"), editor.like(y, "negative")
    place = editor.operators.index(grown)
    editor.operators, after = editor.operators[:place], editor.operators[place:]
    editor.add("RELU", [x], positive)
    editor.add("SUB", [x, positive], negative)
    grown.inputs = [negative]
    editor.operators += after


def _divide(editor: _Editor, operator: Any) -> None:
    """Write a / b with reciprocal roots: the kernel for integers overflows where a is small.

    With r = 1 / sqrt(b) it is a r r, and with r = 1 / |b| where b may be negative a (b r) r.
    """
    a, b = map(int, operator.inputs)
    (y,) = operator.outputs
    if (values := editor.values(b, "float32")).size:
        inverse = editor.constant((1 / values).reshape(editor.shape(b)).astype(np.float32))
        editor.add("MUL", [a, inverse], y)
        return
    root, once = editor.like(b, f"{y}/root"), editor.like(y, "once")
    if _is_positive(editor, b):
        editor.add("RSQRT", [b], root)
        editor.add("MUL", [a, root], once)
    else:
        square, sign = editor.like(b, f"{y}/square"), editor.like(b, f"{y}/sign")
        editor.add("MUL", [b, b], square)
        editor.add("RSQRT", [square], root)
        editor.add("MUL", [b, root], sign)
        editor.add("MUL", [a, sign], once)
    editor.add("MUL", [once, root], y)


def _is_positive(editor: _Editor, index: int) -> bool:
    """Whether a tensor cannot be negative, by the operators that make it."""
    if (values := editor.values(index, "float32")).size:
        return bool((values >= 0).all())
    made = next((it for it in editor.operators if index in it.outputs), None)
    if made is None:
        return False
    kind, inputs = operator_kind(editor.parsed, made), list(map(int, made.inputs))
    if kind in ("ADD", "MUL", "MAXIMUM"):
        squared = kind == "MUL" and inputs[0] == inputs[1]
        found = [_is_positive(editor, part) for part in inputs]
        return squared or all(found) or (kind == "MAXIMUM" and any(found))
    if kind == "CAST":
        return type_name(editor.subgraph.tensors[inputs[0]]) == "bool"
    if kind in ("SUM", "MEAN", "REDUCE_MAX", "RESHAPE", "TRANSPOSE", "EXPAND_DIMS", "SQUEEZE"):
        return _is_positive(editor, inputs[0])
    return kind in ("ABS", "EXP", "LOGISTIC", "RELU", "RELU6", "RSQRT", "SOFTMAX", "SQRT")


def _softplus(editor: _Editor, operator: Any) -> None:
    """Write log(exp(x) + 1) as max(x, 0) + log(exp(-|x|) + 1): its values stay small."""
    (y,) = operator.outputs
    plus = editor.maker(operator.inputs[0], "ADD")
    exp = None if plus is None else editor.maker(plus.inputs[0], "EXP")
    if plus is None or exp is None or editor.values(plus.inputs[1], "float32").tolist() != [1.0]:
        editor.operators.append(operator)
        return
    editor.operators = [it for it in editor.operators if it not in (plus, exp)]
    (x,) = exp.inputs
    positive, size, negative, logarithm = (
        editor.like(y, what) for what in ("positive", "size", "negative", "log")
    )
    editor.add("RELU", [x], positive)
    editor.add("ABS", [x], size)
    editor.add("MUL", [size, editor.constant(np.array(-1, np.float32))], negative)
    editor.add("EXP", [negative], exp.outputs[0])
    editor.add("ADD", plus.inputs, plus.outputs[0])
    editor.add("LOG", operator.inputs, logarithm)
    editor.add("ADD", [positive, logarithm], y)


def _one_hot(editor: _Editor, operator: Any) -> None:
    """Write ONE_HOT of 1 and 0 as a comparison: the quantizer confuses its two values."""
    index, depth, on, off = map(int, operator.inputs)
    (y,) = operator.outputs
    kind = type_name(editor.subgraph.tensors[index])
    values = [editor.values(on, "float32").tolist(), editor.values(off, "float32").tolist()]
    count = editor.values(depth, "int32").tolist()
    axis = operator.builtinOptions.axis
    if values != [[1.0], [0.0]] or len(count) != 1 or axis not in (-1, len(editor.shape(y)) - 1):
        editor.operators.append(operator)
        return
    column, most, least, found = (
        editor.like(index, "column", kind),
        *(editor.like(y, part, "bool") for part in ("most", "least", "found")),
    )
    shape = [*editor.shape(index), 1]
    editor.subgraph.tensors[column].shape = np.asarray(shape, np.int32)
    editor.add("RESHAPE", [index, editor.constant(np.asarray(shape, np.int32))], column)
    classes = editor.constant(np.arange(count[0], dtype=kind))
    editor.add("LESS_EQUAL", [column, classes], most)  # EQUAL would be made a ONE_HOT again
    editor.add("GREATER_EQUAL", [column, classes], least)
    editor.add("LOGICAL_AND", [most, least], found)
    editor.add("CAST", [found], y)


def _reverse(editor: _Editor, operator: Any) -> None:
    """Write REVERSE_V2 as GATHERs: the quantizer gives its result a scale that it does not keep."""
    x, order = map(int, operator.inputs)
    (y,) = operator.outputs
    axes = [int(axis) % len(editor.shape(x)) for axis in editor.values(order, "int32")]
    for number, axis in enumerate(axes, 1):
        made = y if number == len(axes) else editor.like(y, f"reversed_{number}")
        backwards = editor.constant(np.arange(editor.shape(x)[axis], dtype=np.int32)[::-1].copy())
        editor.add("GATHER", [x, backwards], made)
        editor.operators[-1].builtinOptions.axis = axis
        x = made


def _split(editor: _Editor, operator: Any) -> None:
    """Write a SPLIT as one SLICE per part, where nobody reads some of its parts.

    TensorFlow's quantizer leaves such a SPLIT in float at times, and no runtime makes those parts.
    """
    if all(editor.readers[int(index)] for index in operator.outputs):
        editor.operators.append(operator)
        return
    axis_of, whole = map(int, operator.inputs[:2])
    if operator_kind(editor.parsed, operator) == "SPLIT_V":
        whole, axis_of = map(int, operator.inputs[::2])
    axis = int(editor.values(axis_of, "int32")[0]) % len(editor.shape(whole))
    begin = np.zeros(len(editor.shape(whole)), np.int32)
    for part in map(int, operator.outputs):
        size = np.asarray(editor.shape(part), np.int32)
        if editor.readers[part]:
            editor.add("SLICE", [whole, editor.constant(begin), editor.constant(size)], part)
        begin = begin.copy()
        begin[axis] += size[axis]


_AFFINE = ("ADD", "SUB", "MUL")
OPERATORS: dict[str, Callable[[_Editor, Any], None]] = {
    "DIV": _divide,
    "ELU": _exponential_unit,
    "LOG": _softplus,
    "NEG": _negate,
    "NOT_EQUAL": _not_equal,
    "ONE_HOT": _one_hot,
    "REVERSE_V2": _reverse,
    "SELECT": _select,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _square_difference,
}
"""By kind of the operator, what writes it in another form."""
WITH_16_BITS: dict[str, Callable[[_Editor, Any], None]] = {"L2_NORMALIZATION": _normalize}
"""Likewise, of operators that have a form in 8 bits only."""
