from __future__ import annotations

from pathlib import Path

import pytest
import tf_keras
from test_loading_legacy import difference, opened, shared_process

from edgeprune.loading.references import LegacyProcess

REAL_FILES = {
    "mlperf_tiny": ["dscnn_kws.h5", "mobilenetv1_025_vww.h5", "resnet8_cifar10.h5", "wakeword.h5"],
    "legacy_models": [
        "big_xception_emotion.hdf5",
        "mini_xception_emotion.hdf5",
        "mini_xception_gender.hdf5",
        "mobilenet_v1_025_imagenet.h5",
        "ssrnet_densenet19.json",
        "ssrnet_mobilenet05.json",
        "teachable_machine.h5",
        "yamnet256_esc10.h5",
    ],
}


@pytest.fixture
def legacy() -> LegacyProcess:
    return shared_process()


def read(path: Path) -> tf_keras.Model:
    try:
        return tf_keras.models.load_model(path, compile=False)
    except TypeError as error:
        if "'optional'" not in str(error):
            raise
        pytest.skip(f"tf_keras {tf_keras.__version__} cannot read what a later one wrote")


def test_all_real_files_without_code_equal_tf_keras(
    shared_data: Path, legacy: LegacyProcess
) -> None:
    differences, seen = {}, 0
    for folder, names in REAL_FILES.items():
        for name in names:
            path = shared_data / folder / name
            weights = path.with_suffix(".h5") if path.suffix == ".json" else None
            if weights is None:
                original = read(path)
            else:
                original = tf_keras.models.model_from_json(path.read_text())
                original.load_weights(weights)
            model = opened(path, legacy, weights)
            differences[name] = difference(model, original)
            assert [x.name for x in model.inputs] == [x.name for x in original.inputs]
            assert [x.name.replace("/", "_") for x in original.layers] == [
                x.name for x in model.layers
            ]
            seen += 1

    assert seen == 12
    assert {name: value for name, value in differences.items() if not value < 1e-5} == {}


def test_the_real_saved_model_equals_the_file_derived_from_it(
    shared_data: Path, legacy: LegacyProcess
) -> None:
    model = opened(shared_data / "mlperf_tiny" / "dscnn_kws_savedmodel", legacy)
    original = read(shared_data / "mlperf_tiny" / "dscnn_kws.h5")

    assert difference(model, original) < 1e-5
