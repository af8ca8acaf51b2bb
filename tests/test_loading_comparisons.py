from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tf_keras
from test_loading_legacy import (
    L,
    architecture_and_hdf5,
    archive,
    opened,
    plain_layers,
    randomised,
    saved_model,
    separable_layers_with_the_old_hard_sigmoid,
    shared_process,
)

from edgeprune.errors import ModelError
from edgeprune.loading import comparisons, hard_sigmoids
from edgeprune.loading.references import LegacyProcess


@pytest.fixture
def legacy() -> LegacyProcess:
    return shared_process()


def test_a_difference_to_tf_keras_is_refused_with_numbers_and_the_layer(
    tmp_path: Path, legacy: LegacyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    randomised(separable_layers_with_the_old_hard_sigmoid()).save(tmp_path / "model.h5")
    monkeypatch.setattr(hard_sigmoids, "FACTOR", 1.0)

    with pytest.raises(
        ModelError,
        match=r"'model.h5' does not compute the same in Keras 3: the outputs differ from those of "
        r"tf_keras by \d.\de-\d\d of the largest \(allowed: 1e-05\); the first layer to differ is "
        r"'separable_conv2d\w*' \(SeparableConv2D\), by \d.\de-\d\d of its largest value. Rebuild",
    ):
        opened(tmp_path / "model.h5", legacy)


def test_a_difference_behind_a_saturated_softmax_is_found(
    tmp_path: Path, legacy: LegacyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tf_keras.Sequential(
        [
            L.Dense(3, activation="hard_sigmoid", input_shape=(3,), name="hidden"),
            L.Dense(3, activation="softmax"),
        ]
    )
    randomised(model)
    model.layers[1].bias.assign([1000.0, 0.0, 0.0])
    model.save(tmp_path / "model.h5")
    monkeypatch.setattr(hard_sigmoids, "FACTOR", 1.0)

    with pytest.raises(ModelError, match=r"by 0.0e\+00 of the largest .* 'hidden' \(Dense\)"):
        opened(tmp_path / "model.h5", legacy)


@pytest.mark.parametrize("save", [saved_model, archive, architecture_and_hdf5])
def test_rounding_is_told_from_a_difference_by_double_precision(
    save: Callable[[Any, Path], Any],
    tmp_path: Path,
    legacy: LegacyProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, weights = save(randomised(plain_layers()), tmp_path)
    monkeypatch.setattr(comparisons, "TOLERANCE", 1e-10)  # no single precision gets there

    with caplog.at_level(logging.INFO, logger="edgeprune"):
        model = opened(path, legacy, weights)

    assert caplog.messages[-1] == f"'{path.name}' differs from tf_keras by rounding only."
    assert model.layers[-1].dtype == "float32"
