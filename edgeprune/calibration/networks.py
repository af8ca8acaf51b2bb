"""Small `.tflite` networks written directly, without a converter: a few milliseconds each.

Their weights are random and their outputs mean nothing; what they take is what a network of the
same shapes takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgeprune.tflite.flatbuffer import find_schema

Scheme = Literal["float32", "int8"]
SCHEMES: tuple[Scheme, ...] = ("int8", "float32")
_SCALE = 0.05
_WEIGHT_SCALE = 0.01


@dataclass(frozen=True)
class Tensor:
    """A tensor of the network that is being written.

    Attributes:
        number: index in the file.
        shape: with the batch of one.
    """

    number: int
    shape: tuple[int, ...]


class NetworkWriter:
    """Writes one network, operator by operator.

    Example:
        >>> network = NetworkWriter((8, 8, 3), "int8")
        >>> content = network.finish(network.convolve(network.input, 4, kernel=3))
        >>> from edgeprune.latency import parse_operators
        >>> [operator.macs for operator in parse_operators(content)]
        [6912.0]
    """

    def __init__(self, shape: tuple[int, ...], scheme: Scheme, seed: int = 0) -> None:
        """Begin with an input.

        Args:
            shape: of the input without batch.
            scheme: number format; inputs and outputs have it too.
            seed: of the weights.
        """
        self._schema = find_schema()
        self._integer = scheme == "int8"
        self._generator = np.random.default_rng(seed)
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [self._schema.BufferT()]
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self.input = self._activation((1, *shape))

    def convolve(
        self, x: Tensor, channels: int, *, kernel: int = 1, stride: int = 1, relu: bool = True
    ) -> Tensor:
        """Add a convolution with `same` padding and, if `relu`, ReLU6."""
        weights = self._weights((channels, kernel, kernel, x.shape[-1]))
        made = self._activation(_strided(x.shape, stride, channels))
        fused = self._relu6() if relu else {}
        options = self._options("Conv2DOptions", strideW=stride, strideH=stride, **fused)
        return self._add("CONV_2D", [x, weights, self._bias(channels)], made, options)

    def convolve_depthwise(
        self, x: Tensor, *, kernel: int = 3, stride: int = 1, relu: bool = True
    ) -> Tensor:
        """Add a depthwise convolution with `same` padding and, if `relu`, ReLU6."""
        channels = x.shape[-1]
        weights = self._weights((1, kernel, kernel, channels), axis=3)
        made = self._activation(_strided(x.shape, stride, channels))
        options = self._options(
            "DepthwiseConv2DOptions",
            strideW=stride,
            strideH=stride,
            depthMultiplier=1,
            **(self._relu6() if relu else {}),
        )
        return self._add("DEPTHWISE_CONV_2D", [x, weights, self._bias(channels)], made, options)

    def connect(self, x: Tensor, units: int) -> Tensor:
        """Add a fully connected layer on a vector."""
        weights = self._weights((units, x.shape[-1]), per_channel=False)
        made = self._activation((1, units))
        options = self._options("FullyConnectedOptions")
        return self._add("FULLY_CONNECTED", [x, weights, self._bias(units, False)], made, options)

    def add(self, x: Tensor, y: Tensor, *, relu: bool = False) -> Tensor:
        """Add two maps and, if `relu`, ReLU6."""
        options = self._options("AddOptions", **(self._relu6() if relu else {}))
        return self._add("ADD", [x, y], self._activation(x.shape), options)

    def shift(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Add a constant to every channel and, if `relu`, ReLU6."""
        return self.add(x, self._vector(x.shape[-1]), relu=relu)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply a map by another, or by one position that holds for all."""
        return self._add("MUL", [x, y], self._activation(x.shape), self._options("MulOptions"))

    def scale(self, x: Tensor) -> Tensor:
        """Multiply every channel by a constant."""
        return self.multiply(x, self._vector(x.shape[-1]))

    def activate(self, x: Tensor, name: str) -> Tensor:
        """Add an activation by its name in TensorFlow Lite, such as `RELU`."""
        options = self._options("HardSwishOptions") if name == "HARD_SWISH" else (0, None)
        scale = 1 / 256 if name == "LOGISTIC" else _SCALE  # the runtime takes no other
        return self._add(name, [x], self._activation(x.shape, scale), options)

    def pool(self, x: Tensor, name: str, *, window: int = 2, stride: int = 2) -> Tensor:
        """Pool with `same` padding, as `MAX_POOL_2D` or `AVERAGE_POOL_2D`."""
        sizes = dict(strideW=stride, strideH=stride, filterWidth=window, filterHeight=window)
        made = self._activation(_strided(x.shape, stride, x.shape[-1]))
        return self._add(name, [x], made, self._options("Pool2DOptions", **sizes))

    def average(self, x: Tensor, *, keep: bool = False) -> Tensor:
        """Average all positions, to a vector or (`keep`) to a map of one position."""
        axes = self._constant(np.array([1, 2], np.int32), "INT32")
        made = self._activation((1, 1, 1, x.shape[-1]) if keep else (1, x.shape[-1]))
        return self._add("MEAN", [x, axes], made, self._options("ReducerOptions", keepDims=keep))

    def concatenate(self, x: Tensor, y: Tensor) -> Tensor:
        """Put the channels of two maps side by side."""
        made = self._activation((*x.shape[:-1], x.shape[-1] + y.shape[-1]))
        options = self._options("ConcatenationOptions", axis=3)
        return self._add("CONCATENATION", [x, y], made, options)

    def pad(self, x: Tensor) -> Tensor:
        """Put one position of zeros around a map."""
        around = self._constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32), "INT32")
        made = self._activation((1, x.shape[1] + 2, x.shape[2] + 2, x.shape[3]))
        return self._add("PAD", [x, around], made, self._options("PadOptions"))

    def finish(self, *outputs: Tensor) -> bytes:
        """Return the content of the `.tflite` file."""
        import flatbuffers  # type: ignore[import-untyped]

        schema = self._schema
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs = [self.input.number]
        graph.outputs = [tensor.number for tensor in outputs]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self._buffers
        model.operatorCodes = [self._code(name) for name in self._codes]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _code(self, name: str) -> Any:
        code = self._schema.OperatorCodeT()
        number = getattr(self._schema.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        versions = {"DEPTHWISE_CONV_2D": 3 if self._integer else 2, "HARD_SWISH": 1}
        code.version = versions.get(name, 2)
        return code

    def _options(self, kind: str, **values: Any) -> tuple[int, Any]:
        options = getattr(self._schema, f"{kind}T")()
        for name, value in values.items():
            setattr(options, name, value)
        return getattr(self._schema.BuiltinOptions, kind), options

    def _relu6(self) -> dict[str, int]:
        return {"fusedActivationFunction": self._schema.ActivationFunctionType.RELU6}

    def _add(
        self, name: str, inputs: list[Tensor], made: Tensor, options: tuple[int, Any]
    ) -> Tensor:
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault(name, len(self._codes))
        operator.inputs = [tensor.number for tensor in inputs]
        operator.outputs = [made.number]
        operator.builtinOptionsType, operator.builtinOptions = options
        self._operators.append(operator)
        return made

    def _activation(self, shape: tuple[int, ...], scale: float = _SCALE) -> Tensor:
        return self._tensor(shape, "INT8" if self._integer else "FLOAT32", 0, [scale], [-128])

    def _vector(self, channels: int) -> Tensor:
        """Return a constant for every channel; as an activation would be quantized."""
        return self._weights((channels,), per_channel=False)

    def _weights(self, shape: tuple[int, ...], axis: int = 0, per_channel: bool = True) -> Tensor:
        if not self._integer:
            values = self._generator.normal(0, 0.1, shape).astype(np.float32)
            return self._constant(values, "FLOAT32")
        integers = self._generator.integers(-127, 128, shape, np.int8)
        count = shape[axis] if per_channel else 1
        return self._constant(integers, "INT8", [_WEIGHT_SCALE] * count, axis)

    def _bias(self, channels: int, per_channel: bool = True) -> Tensor:
        if not self._integer:
            return self._constant(np.zeros(channels, np.float32), "FLOAT32")
        count = channels if per_channel else 1
        zeros = np.zeros(channels, np.int32)
        return self._constant(zeros, "INT32", [_SCALE * _WEIGHT_SCALE] * count)

    def _constant(
        self, values: np.ndarray, kind: str, scales: list[float] | None = None, axis: int = 0
    ) -> Tensor:
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._buffers.append(buffer)
        zeros = [0] * len(scales or [])
        return self._tensor(values.shape, kind, len(self._buffers) - 1, scales, zeros, axis)

    def _tensor(
        self,
        shape: tuple[int, ...],
        kind: str,
        buffer: int,
        scales: list[float] | None,
        zeros: list[int],
        axis: int = 0,
    ) -> Tensor:
        tensor = self._schema.TensorT()
        tensor.shape, tensor.buffer = list(shape), buffer
        tensor.type = getattr(self._schema.TensorType, kind)
        tensor.name = f"tensor_{len(self._tensors)}".encode()
        if scales and kind != "FLOAT32":
            tensor.quantization = self._schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = scales, zeros
            tensor.quantization.quantizedDimension = axis
        self._tensors.append(tensor)
        return Tensor(len(self._tensors) - 1, tuple(shape))


def _strided(shape: tuple[int, ...], stride: int, channels: int) -> tuple[int, ...]:
    return (1, -(-shape[1] // stride), -(-shape[2] // stride), channels)
