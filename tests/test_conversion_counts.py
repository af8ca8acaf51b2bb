"""Nothing is converted or quantized twice: counted around TensorFlow's own functions."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
import small_models
from specialists import digits, make_classifier

import edgeprune
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.scoring.context import PruningContext
from edgeprune.tflite import Convertible, check_operators, convert_in_detail

UNMEASURED = edgeprune.Measurement(latency=False)
QUICK = Pruning(criterion="l1", recovery="mean", recalibration="off")


class Calls:
    """How often TensorFlow converted, and what it quantized."""

    def __init__(self) -> None:
        self.conversions = 0
        self.quantized: Counter[str] = Counter()

    @property
    def repeated(self) -> list[str]:
        return [content for content, count in self.quantized.items() if count > 1]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    import tensorflow as tf
    from tensorflow.lite.python import convert as tensorflow_convert

    found, quantize = Calls(), tensorflow_convert.mlir_quantize
    converter = tf.lite.TFLiteConverter

    class Counting(converter):
        @classmethod
        def from_concrete_functions(cls, *given, **more):
            found.conversions += 1
            return converter.from_concrete_functions(*given, **more)

    def count(content, **settings):
        told = content + repr(sorted(map(str, settings.items()))).encode()
        found.quantized[hashlib.sha256(told).hexdigest()] += 1
        return quantize(content, **settings)

    monkeypatch.setattr(tf.lite, "TFLiteConverter", Counting)
    monkeypatch.setattr(tensorflow_convert, "mlir_quantize", count)
    return found


@pytest.mark.parametrize(
    ("scheme", "training", "budget", "conversions"),
    [
        ("float32", "fast", "macs=50%", 2),
        ("dynamic", "fast", "macs=50%", 2),
        ("int8", "fast", "macs=50%", 2),
        ("int8", "1epochs", "macs=50%", 2),  # what training changes is not converted before
        pytest.param("int8", "1epochs", "macs=50%,memory=100%", 3, marks=pytest.mark.slow),
        ("int16x8", "fast", "macs=50%", 2),
        pytest.param("int8-qat", "fast", "macs=50%", 3, marks=pytest.mark.slow),
    ],
)
def test_a_build_converts_each_model_once(
    scheme, training, budget, conversions, calls: Calls, tmp_path: Path
) -> None:
    """The original, the pruned one where its file is asked for or delivered, the trained one."""
    data = edgeprune.Data(digits(), calibration=10, validation=10, test=50)
    edgeprune.build(
        make_classifier(), data, budget=budget, pruning=QUICK, training=training, export=scheme,
        measurement=UNMEASURED, out=tmp_path / "out",
    )  # fmt: skip
    assert calls.conversions == conversions
    assert calls.repeated == []


def test_files_of_several_formats_start_from_one_conversion(calls: Calls) -> None:
    model, samples = small_models.classifier(), small_models.samples(20)
    start = Convertible(model)
    check_operators(start, "int8")
    made = convert_in_detail(start, calibration=samples)
    floats = convert_in_detail(start, scheme="float32")
    assert calls.conversions == 1 and calls.repeated == []
    alone = [
        convert_in_detail(model, scheme=scheme, calibration=samples).content
        for scheme in ("int8", "float32")
    ]
    assert [made.content, floats.content] == alone


def test_what_consumers_see_of_a_group_is_worked_out_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    find = PruningContext._find_views

    def count(context: PruningContext, group):
        seen[id(context), group.name] += 1
        return find(context, group)

    monkeypatch.setattr(PruningContext, "_find_views", count)
    images, targets = digits()
    samples = images[:100].astype("float32"), targets[:100]
    edgeprune.prune(make_classifier(), samples, pruning="chapr", training=None)
    assert seen and set(seen.values()) == {1}
