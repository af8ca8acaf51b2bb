from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgeprune.errors import ModelError
from edgeprune.latency import parse_operators, read_operators


def test_a_real_file_has_the_products_of_its_published_network(shared_data) -> None:
    operators = read_operators(shared_data / "coral" / "mobilenet_v2_1.0_224_quant.tflite")
    macs = sum(operator.macs for operator in operators)
    assert macs == pytest.approx(300.8e6, rel=0.001)  # Sandler et al. 2018: 300 million
    kinds = [operator.kind for operator in operators]
    assert kinds.count("depthwise") == 17 and kinds.count("convolution") == 1


def test_reading_a_file_loads_no_tensorflow(shared_data) -> None:
    path = shared_data / "coral" / "mobilenet_v1_0.25_128_quant.tflite"
    code = (
        "import sys; from edgeprune.latency import read_operators; "
        f"read_operators({str(path)!r}); assert not {{'tensorflow', 'keras'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_transposed_convolution_counts_its_input_positions() -> None:
    keras = pytest.importorskip("keras")
    from edgeprune.tflite import convert

    model = keras.Sequential(
        [keras.Input((5, 5, 3)), keras.layers.Conv2DTranspose(4, 2, strides=2, name="up")]
    )
    operators = parse_operators(convert(model, scheme="float32"))
    assert sum(operator.macs for operator in operators) == 25 * (2 * 2) * 3 * 4


def test_weights_in_float16_are_weights_and_not_activations() -> None:
    keras = pytest.importorskip("keras")
    from edgeprune.tflite import convert

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    whole, half = (
        parse_operators(convert(model, scheme=scheme)) for scheme in ("float32", "float16")
    )
    assert whole == half
    assert np.sum([operator.read for operator in half]) == 64


def test_a_missing_or_damaged_file_is_one_clear_error(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"Cannot read '.*none\.tflite'"):
        read_operators(tmp_path / "none.tflite")
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"\x10\0\0\0TFL3" + b"\xff" * 64)
    with pytest.raises(ModelError, match="is damaged"):
        read_operators(damaged)
