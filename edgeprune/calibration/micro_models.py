"""The networks that a machine is calibrated with: single kinds of operators, and small mixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from edgeprune.calibration.networks import NetworkWriter, Scheme, Tensor

Body = Callable[[NetworkWriter], Tensor]
AddOperator = Callable[[NetworkWriter, Tensor, int], Tensor]

WIDTHS = (33, 36, 40, 44, 48, 52, 56, 60, 64)
"""Widths whose speed decides on the channel step."""


@dataclass(frozen=True)
class MicroModel:
    """One network to measure.

    Attributes:
        name: unique.
        kind: `operator` (of one kind), `width` (for the channel step) or `network` (a mixture, as
            real networks are; their left-out errors are the stated ones).
        shape: of the input.
        body: adds the operators and returns the output.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    body: Body

    def write(self, scheme: Scheme) -> bytes:
        """Return the content of the `.tflite` file."""
        network = NetworkWriter(self.shape, scheme)
        return network.finish(self.body(network))


def list_micro_models() -> tuple[MicroModel, ...]:
    """Return the networks in the order in which they are measured.

    Example:
        >>> models = list_micro_models()
        >>> len(models) == len({model.name for model in models})
        True
    """
    return (*_networks(), *_operators(), *_widths())


def _operators() -> Iterator[MicroModel]:
    for side, depth, channels in (
        (56, 8, 16), (56, 16, 64), (28, 32, 32), (28, 24, 144), (14, 64, 128), (14, 384, 64),
        (14, 128, 128), (7, 256, 256), (7, 160, 640), (4, 512, 512), (3, 1024, 1024), (2, 64, 64),
        (1, 128, 128),
    ):  # fmt: skip
        name = f"pointwise {side}x{side} {depth}-{channels}"
        yield _chain(name, (side, side, depth), partial(_pointwise, there=channels, back=depth), 2)
    for side, channels in (
        (56, 8), (32, 16), (64, 64), (28, 64), (16, 32), (14, 96), (8, 64), (8, 256), (7, 128),
        (4, 512),
    ):  # fmt: skip
        name = f"convolution {side}x{side} {channels}"
        yield _chain(name, (side, side, channels), partial(_convolution, channels=channels), 2)
    for side, channels in ((96, 8), (96, 32), (224, 16)):
        name = f"first convolution {side}x{side} 3-{channels}"
        yield _chain(name, (side, side, 3), partial(_convolution, channels=channels, stride=2), 1)
    for side, channels, kernel in (
        (56, 8, 3), (48, 24, 3), (28, 96, 3), (14, 192, 3), (7, 384, 3), (14, 96, 5), (3, 256, 3),
    ):  # fmt: skip
        name = f"depthwise {kernel}x{kernel} {side}x{side} {channels}"
        yield _chain(name, (side, side, channels), partial(_depthwise, kernel=kernel), 3)
    for depth, units in ((64, 64), (256, 256), (1024, 512), (4096, 1024)):
        name = f"fully connected {depth}-{units}"
        yield _chain(name, (depth,), partial(_connected, there=units, back=depth), 2)
    for side, channels in ((56, 24), (28, 64), (7, 64)):
        for name, add in ELEMENTWISE.items():
            yield _chain(f"{name} {side}x{side} {channels}", (side, side, channels), add, 4)


def _widths() -> Iterator[MicroModel]:
    for width in WIDTHS:
        add = partial(_pointwise, there=width, back=width)
        yield _chain(f"width {width}", (14, 14, width), add, 4, kind="width")


def _chain(
    name: str, shape: tuple[int, ...], add: AddOperator, times: int, kind: str = "operator"
) -> MicroModel:
    def body(network: NetworkWriter) -> Tensor:
        x = network.input
        for number in range(times):
            x = add(network, x, number)
        return x

    return MicroModel(name, kind, shape, body)


def _pointwise(net: NetworkWriter, x: Tensor, number: int, *, there: int, back: int) -> Tensor:
    return net.convolve(x, back if number % 2 else there)


def _convolution(
    net: NetworkWriter, x: Tensor, number: int, *, channels: int, stride: int = 1
) -> Tensor:
    return net.convolve(x, channels, kernel=3, stride=stride)


def _depthwise(net: NetworkWriter, x: Tensor, number: int, *, kernel: int) -> Tensor:
    return net.convolve_depthwise(x, kernel=kernel)


def _connected(net: NetworkWriter, x: Tensor, number: int, *, there: int, back: int) -> Tensor:
    return net.connect(x, back if number % 2 else there)


def _maximum(net: NetworkWriter, x: Tensor, number: int) -> Tensor:
    return net.pool(x, "MAX_POOL_2D", window=3, stride=1)


def _average(net: NetworkWriter, x: Tensor, number: int) -> Tensor:
    return net.pool(x, "AVERAGE_POOL_2D", window=2, stride=1)


def _gate(net: NetworkWriter, x: Tensor, number: int) -> Tensor:
    return net.multiply(x, net.average(x, keep=True))


def _activate(net: NetworkWriter, x: Tensor, number: int, *, name: str) -> Tensor:
    return net.activate(x, name)


def _concatenate(net: NetworkWriter, x: Tensor, number: int) -> Tensor:
    return net.concatenate(x, net.input)


ELEMENTWISE: dict[str, AddOperator] = {
    "sum": lambda net, x, number: net.add(x, x),
    "shift": lambda net, x, number: net.shift(x),
    "scale": lambda net, x, number: net.scale(x),
    "gate": _gate,
    "RELU": partial(_activate, name="RELU"),
    "HARD_SWISH": partial(_activate, name="HARD_SWISH"),
    "LOGISTIC": partial(_activate, name="LOGISTIC"),
    "maximum": _maximum,
    "average": _average,
    "concatenation": _concatenate,
    "padding": lambda net, x, number: net.pad(x),
}
"""Elementwise operators; `gate` averages, too."""
RATED = (
    "MUL", "RELU", "HARD_SWISH", "LOGISTIC", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN",
    "CONCATENATION", "PAD",
)  # fmt: skip
"""The operators among them that get a rate of their own; the others cost what sums cost."""


def _networks() -> Iterator[MicroModel]:
    for side, width, depth in (
        (32, 8, 2), (32, 16, 3), (32, 12, 1), (48, 8, 2), (64, 16, 2), (24, 32, 2),
        (32, 11, 3), (48, 7, 2),
    ):  # fmt: skip
        name = f"residual network {side}x{side}, {width} channels, {depth} blocks"
        yield _network(name, side, partial(_residual, width=width, depth=depth))
    for side, width in (
        (96, 8), (96, 16), (64, 12), (128, 8), (128, 20), (48, 24), (160, 16), (64, 32), (96, 40),
        (96, 5), (112, 7), (64, 11),
    ):  # fmt: skip
        name = f"separable network {side}x{side}, {width} channels"
        yield _network(name, side, partial(_separable, width=width))
    for side, width, factor in (
        (96, 8, 6), (64, 12, 6), (128, 16, 4), (48, 16, 6), (112, 12, 3), (80, 40, 6),
        (96, 5, 5), (80, 9, 3),
    ):  # fmt: skip
        name = f"inverted residuals {side}x{side}, {width} channels, factor {factor}"
        yield _network(name, side, partial(_inverted, width=width, factor=factor))
    for side, width, activation in (
        (80, 10, "HARD_SWISH"), (112, 16, "HARD_SWISH"), (64, 16, "LOGISTIC"), (96, 8, "LOGISTIC"),
        (48, 32, "HARD_SWISH"),
    ):  # fmt: skip
        name = f"gated residuals {side}x{side}, {width} channels, {activation}"
        yield _network(name, side, partial(_gated, width=width, activation=activation))
    for side, growth, depth in ((32, 12, 4), (48, 16, 6), (64, 24, 3)):
        name = f"dense network {side}x{side}, growth {growth}, {depth} per block"
        yield _network(name, side, partial(_dense, growth=growth, depth=depth))
    for side, width in ((32, 16), (48, 40), (64, 24), (32, 128)):
        name = f"plain network {side}x{side}, {width} channels"
        yield _network(name, side, partial(_plain, width=width))


def _network(name: str, side: int, body: Body) -> MicroModel:
    return MicroModel(name, "network", (side, side, 3), body)


def _residual(net: NetworkWriter, width: int, depth: int) -> Tensor:
    x = net.convolve(net.input, width, kernel=3)
    for stage in range(3):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            channels = width * 2**stage
            y = net.convolve(x, channels, kernel=3, stride=stride)
            y = net.convolve(y, channels, kernel=3)
            if x.shape != y.shape:
                x = net.convolve(x, channels, stride=stride)
            x = net.add(x, y)
    return net.connect(net.average(x), 10)


def _separable(net: NetworkWriter, width: int) -> Tensor:
    x = net.convolve(net.input, width, kernel=3, stride=2)
    for factor, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (32, 2)):
        x = net.convolve_depthwise(x, stride=stride)
        x = net.convolve(x, width * factor)
    return net.connect(net.average(x), 100)


def _inverted(net: NetworkWriter, width: int, factor: int) -> Tensor:
    x = net.convolve(net.input, width * 2, kernel=3, stride=2)
    for channels, stride in ((width, 1), (width * 2, 2), (width * 2, 1), (width * 4, 2),
                             (width * 4, 1), (width * 4, 1), (width * 8, 2)):  # fmt: skip
        y = net.convolve(x, x.shape[-1] * factor)
        y = net.convolve_depthwise(y, stride=stride)
        y = net.convolve(y, channels)
        x = net.add(x, y) if x.shape == y.shape else y
    x = net.convolve(x, 256)
    return net.connect(net.average(x), 100)


def _gated(net: NetworkWriter, width: int, activation: str) -> Tensor:
    def activate(x: Tensor) -> Tensor:
        y = net.activate(x, activation)
        return net.multiply(x, y) if activation == "LOGISTIC" else y

    x = activate(net.convolve(net.input, width, kernel=3, stride=2, relu=False))
    for channels, stride, kernel in ((width, 2, 3), (width * 2, 2, 3), (width * 2, 1, 5),
                                     (width * 4, 2, 5), (width * 4, 1, 5)):  # fmt: skip
        y = activate(net.convolve(x, x.shape[-1] * 4, relu=False))
        y = activate(net.convolve_depthwise(y, stride=stride, kernel=kernel, relu=False))
        gate = net.convolve(net.average(y, keep=True), y.shape[-1] // 4)
        y = net.multiply(y, net.activate(net.convolve(gate, y.shape[-1], relu=False), "LOGISTIC"))
        y = net.convolve(y, channels, relu=False)
        x = net.add(x, y) if x.shape == y.shape else y
    return net.connect(net.average(x), 100)


def _dense(net: NetworkWriter, growth: int, depth: int) -> Tensor:
    x = net.convolve(net.input, growth * 2, kernel=3)
    for block in range(3):
        for _ in range(depth):
            y = net.shift(net.scale(x), relu=True)
            y = net.convolve(net.convolve(y, growth * 4), growth, kernel=3, relu=False)
            x = net.concatenate(x, y)
        if block < 2:
            y = net.shift(net.scale(x), relu=True)
            x = net.pool(net.convolve(y, x.shape[-1] // 2), "AVERAGE_POOL_2D")
    return net.connect(net.average(x), 100)


def _plain(net: NetworkWriter, width: int) -> Tensor:
    x = net.input
    for factor in (1, 2, 4):
        x = net.convolve(x, width * factor, kernel=3)
        x = net.pool(net.convolve(x, width * factor, kernel=3), "MAX_POOL_2D")
    return net.connect(net.average(x), 100)
