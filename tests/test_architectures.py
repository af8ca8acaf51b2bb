"""The models of keras.applications, with the checks that write `benchmarks/architectures.md`.

Small members of their families run with every change; the published ones take many minutes.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import keras
import pytest
from places import ROOT

SPEC = importlib.util.spec_from_file_location(
    "architectures", ROOT / "benchmarks" / "architectures.py"
)
architectures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(architectures)


def of(name: str) -> ModuleType:
    """The module of Keras in which an architecture is built; it can build shallower ones too."""
    return inspect.getmodule(getattr(keras.applications, name))


def stack(add: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda x: add(add(x, 8, 2, name="early"), 16, 2, name="late")


def build_nasnet(*, input_shape: tuple[int, ...], **options: Any) -> keras.Model:
    small = {"penultimate_filters": 96, "num_blocks": 1, "stem_block_filters": 8}
    return of("NASNetMobile").NASNet(input_shape, skip_reduction=False, **small, **options)


SHALLOW: dict[str, Callable[..., keras.Model]] = {
    "ConvNeXt": partial(
        of("ConvNeXtTiny").ConvNeXt, [1, 2, 1, 1], [8, 16, 16, 24], layer_scale_init_value=0.5
    ),
    "DenseNet": partial(of("DenseNet121").DenseNet, [2, 1, 2, 1]),
    "EfficientNet": partial(of("EfficientNetB0").EfficientNet, 0.5, 0.5, 32),
    "EfficientNetV2": partial(
        of("EfficientNetV2B0").EfficientNetV2, 0.5, 0.4, 32, name="efficientnetv2-b0"
    ),
    "MobileNet": partial(keras.applications.MobileNet, alpha=0.25),
    "MobileNetV2": partial(keras.applications.MobileNetV2, alpha=0.35),
    "MobileNetV3": keras.applications.MobileNetV3Small,
    "NASNet": build_nasnet,
    "ResNet": partial(
        of("ResNet50").ResNet, stack(of("ResNet50").stack_residual_blocks_v1), False, True
    ),
    "ResNetV2": partial(
        of("ResNet50").ResNet, stack(of("ResNet50").stack_residual_blocks_v2), True, True
    ),
}
"""Members of each family with few blocks and channels."""


def check(name: str, constructor: Callable[..., keras.Model] | None = None) -> None:
    row = architectures.examine(name, constructor, convert=False)
    assert row["passed"], row
    assert row["locked"].keys() <= {"input", "output"} or "ConvNeXt" in name, row["locked"]
    assert row["floor_params"] < 0.1 or constructor


MUCH_LIKE_OTHERS = ("EfficientNet", "MobileNetV2")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in MUCH_LIKE_OTHERS else name
        for name in SHALLOW
    ],
)
def test_a_shallow_member_of_each_family_is_cut_exactly(name: str) -> None:
    check(name, SHALLOW[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.SMALLEST_FIRST)
def test_an_architecture_is_cut_exactly(name: str) -> None:
    check(name)


def test_every_architecture_has_a_row() -> None:
    names = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(architectures.SMALLEST_FIRST) == names
    assert len(architectures.SMALLEST_FIRST) == len(names) == 40


def test_a_result_that_proves_nothing_does_not_pass() -> None:
    errors = ("error", "identity_error", "reopened_error", "tflite_error")
    good = dict.fromkeys(errors, 0.0) | {"changed": 0.5, "same_signature": True}
    assert architectures.passes(good)
    for change in [*({error: 1e-3} for error in errors), {"changed": 0}, {"same_signature": 0}]:
        assert not architectures.passes(good | change)
    assert not architectures.passes(good | {"error": float("nan")})


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(architectures, "RESULTS", tmp_path / "rows.json")
    monkeypatch.setattr(architectures, "TABLE", tmp_path / "table.md")
    monkeypatch.setattr(architectures, "SMALLEST_FIRST", ["First", "Second", "Third"])
    script = tmp_path / "fake.py"
    script.write_text("import sys; sys.exit('no such model')")
    monkeypatch.setattr(architectures, "__file__", str(script))
    done = {"model": "First", "failure": "", "passed": True}
    (tmp_path / "rows.json").write_text(json.dumps({"First": done}))
    assert architectures.main([]) == 1
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows["First"] == done
    assert rows["Second"]["failure"] == rows["Third"]["failure"] == "no such model"
    assert "| Second | | | | **failed**: no such model |" in (tmp_path / "table.md").read_text()
    architectures.write_table({"Second": rows["Second"]})
    assert "Not run yet: First, Third." in (tmp_path / "table.md").read_text()
    assert sys.executable
