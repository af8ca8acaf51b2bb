"""MobileNetV1 and V2 as published by TensorFlow, as lists of operators at any width and size."""

from __future__ import annotations

from edgeprune.latency import Operator

CLASSES = 1001
V1 = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
]
V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
      (6, 320, 1, 1)]  # fmt: skip


class Maps:
    """Operators on one feature map after the other; `same` padding throughout."""

    def __init__(self, size: int) -> None:
        self.size, self.channels = size, 3
        self.operators: list[Operator] = []

    @property
    def elements(self) -> int:
        """Return the number of values of the map."""
        return self.size**2 * self.channels

    def convolve(self, channels: int, kernel: int = 1, stride: int = 1) -> None:
        """Convolve, with whatever activation."""
        read, depth = self.elements, kernel**2 * self.channels
        self.size, self.channels = -(-self.size // stride), channels
        kind = "pointwise" if kernel == 1 else "convolution"
        self._add(kind, depth, kernel**2, read, "CONV_2D")

    def convolve_depthwise(self, stride: int) -> None:
        """Convolve every channel by itself, 3 x 3."""
        read, self.size = self.elements, -(-self.size // stride)
        self._add("depthwise", 9, 9, read, "DEPTHWISE_CONV_2D")

    def add(self) -> None:
        """Add the map of a shortcut."""
        self._add("elementwise", 0, 1, 2 * self.elements, "ADD")

    def classify(self) -> None:
        """Pool, and answer with the scores of the classes."""
        read, self.size = self.elements, 1
        self._add("elementwise", 0, 1, read, "AVERAGE_POOL_2D")
        self.convolve(CLASSES)
        self.operators.append(Operator("movement", read=CLASSES, written=CLASSES, name="RESHAPE"))
        self._add("elementwise", 0, 1, CLASSES, "SOFTMAX")

    def _add(self, kind: str, depth: int, taps: int, read: int, name: str) -> None:
        channels = self.channels if depth else 0
        self.operators.append(
            Operator(kind, self.size**2, channels, depth, taps, read, self.elements, name)
        )


def mobilenet_v1(width: float, size: int) -> list[Operator]:
    """Return the operators of MobileNetV1 (Howard et al. 2017)."""
    maps = Maps(size)
    maps.convolve(max(int(32 * width), 8), 3, 2)
    for channels, stride in V1:
        maps.convolve_depthwise(stride)
        maps.convolve(max(int(channels * width), 8))
    maps.classify()
    return maps.operators


def mobilenet_v2(width: float, size: int) -> list[Operator]:
    """Return the operators of MobileNetV2 (Sandler et al. 2018)."""
    maps = Maps(size)
    maps.convolve(divisible(32 * width), 3, 2)
    for factor, filters, count, first_stride in V2:
        channels = divisible(filters * width)
        for number in range(count):
            stride, before = (first_stride if number == 0 else 1), maps.channels
            if factor > 1:
                maps.convolve(before * factor)
            maps.convolve_depthwise(stride)
            maps.convolve(channels)
            if stride == 1 and before == channels:
                maps.add()
    maps.convolve(divisible(1280 * max(width, 1.0)))
    maps.classify()
    return maps.operators


def divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of 8 that loses at most a tenth, as MobileNetV2 does."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


FAMILIES = {"MobileNetV1": mobilenet_v1, "MobileNetV2": mobilenet_v2}
