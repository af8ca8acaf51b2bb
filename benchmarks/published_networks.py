"""Networks as published by TensorFlow, as lists of operators."""

from __future__ import annotations

import math

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
# Expansion, channels, repeats, stride; of V3 and EfficientNet-lite: see where they are used.
V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
      (6, 320, 1, 1)]  # fmt: skip

V3 = [
    (3, 16, 16, False, 1), (3, 64, 24, False, 2), (3, 72, 24, False, 1), (5, 72, 40, True, 2),
    (5, 120, 40, True, 1), (5, 120, 40, True, 1), (3, 240, 80, False, 2), (3, 200, 80, False, 1),
    (3, 184, 80, False, 1), (3, 184, 80, False, 1), (3, 480, 112, True, 1), (3, 672, 112, True, 1),
    (5, 672, 160, True, 2), (5, 960, 160, True, 1), (5, 960, 160, True, 1),
]  # fmt: skip
FIRST_SWISH = 6
"""The block of V3 from which on activations are hard-swish; before it they are ReLU."""
LITE = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]  # fmt: skip
LITES = {0: (1.0, 1.0), 2: (1.1, 1.2), 4: (1.4, 1.8)}
"""Width and depth of EfficientNet-lite by its number."""


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

    def convolve_depthwise(self, stride: int, kernel: int = 3) -> None:
        """Convolve every channel by itself."""
        read, self.size = self.elements, -(-self.size // stride)
        self._add("depthwise", kernel**2, kernel**2, read, "DEPTHWISE_CONV_2D")

    def swish(self) -> None:
        """Apply hard-swish, which is an operator of its own."""
        self._add("elementwise", 0, 1, self.elements, "HARD_SWISH")

    def gate(self) -> None:
        """Squeeze, excite, and multiply the map with what comes of it."""
        size, channels = self.size, self.channels
        read, self.size = self.elements, 1
        self._add("elementwise", 0, 1, read, "MEAN")
        self.convolve(divisible(channels / 4))
        self.convolve(channels)
        self._add("elementwise", 0, 1, channels, "HARD_SIGMOID")
        self.size = size
        self._add("elementwise", 0, 1, self.elements + channels, "MUL")

    def pool(self, stride: int) -> None:
        """Take the largest of 3 x 3."""
        read, self.size = self.elements, -(-self.size // stride)
        self._add("elementwise", 0, 1, read, "MAX_POOL_2D")

    def pad(self, border: int) -> None:
        """Add zeros around the map."""
        read, self.size = self.elements, self.size + border
        self._add("elementwise", 0, 1, read, "PAD")
        self.size -= border

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


def mobilenet_v3(minimalistic: bool, size: int) -> list[Operator]:
    """Return the operators of MobileNetV3-large (Howard et al. 2019)."""
    maps = Maps(size)
    swish = (lambda: None) if minimalistic else maps.swish
    maps.convolve(16, 3, 2)
    swish()
    for number, (kernel, expanded, channels, gated, stride) in enumerate(V3):
        activate = swish if number >= FIRST_SWISH else lambda: None
        before = maps.channels
        if number:
            maps.convolve(expanded)
            activate()
        maps.convolve_depthwise(stride, 3 if minimalistic else kernel)
        activate()
        if gated and not minimalistic:
            maps.gate()
        maps.convolve(channels)
        if stride == 1 and before == channels:
            maps.add()
    maps.convolve(960)
    swish()
    read, maps.size = maps.elements, 1
    maps._add("elementwise", 0, 1, read, "MEAN")
    maps.convolve(1280)
    swish()
    maps.convolve(CLASSES)
    maps._add("elementwise", 0, 1, CLASSES, "SOFTMAX")
    return maps.operators


def efficientnet_lite(number: int, size: int) -> list[Operator]:
    """Return the operators of EfficientNet-lite (Tan and Liu 2020): stem, head and ends as in 0."""
    width, depth = LITES[number]
    maps = Maps(size)
    maps.convolve(32, 3, 2)
    for place, (repeats, kernel, first_stride, factor, filters) in enumerate(LITE):
        inner = 0 < place < len(LITE) - 1
        for index in range(math.ceil(repeats * depth) if inner else repeats):
            stride, before = (first_stride if index == 0 else 1), maps.channels
            if factor > 1:
                maps.convolve(before * factor)
            maps.convolve_depthwise(stride, kernel)
            maps.convolve(divisible(filters * width))
            if stride == 1 and before == maps.channels:
                maps.add()
    maps.convolve(1280)
    maps.classify()
    return maps.operators


def resnet_50(size: int) -> list[Operator]:
    """Return the operators of ResNet-50 (He et al. 2015), with its strides in the 3 x 3."""
    maps = Maps(size)
    maps.pad(6)
    maps.convolve(64, 7, 2)
    maps.pool(2)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for number in range(blocks):
            stride = 2 if number == 0 and stage else 1
            before, place = maps.channels, maps.size
            if number == 0:  # the projection of the shortcut
                maps.convolve(256 * 2**stage, 1, stride)
                maps.channels, maps.size = before, place
            maps.convolve(64 * 2**stage)
            maps.convolve(64 * 2**stage, 3, stride)
            maps.convolve(256 * 2**stage)
            maps.add()
    maps.classify()
    return maps.operators
