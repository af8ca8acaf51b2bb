from __future__ import annotations

from pathlib import Path

import pytest
import tf_keras
from test_loading_legacy import difference, opened, shared_process

from edgeprune.loading.references import LegacyProcess

FILES = {
    "mlperf_tiny": ["wakeword.h5"],
    "legacy_models": [
        "mini_xception_gender.hdf5",
        "ssrnet_mobilenet05.json",
        "teachable_machine.h5",
        "yamnet256_esc10.h5",
    ],
}
MORE_OF_THE_SAME = {
    "mlperf_tiny": ["dscnn_kws.h5", "mobilenetv1_025_vww.h5", "resnet8_cifar10.h5"],
    "legacy_models": [
        "big_xception_emotion.hdf5",
        "mini_xception_emotion.hdf5",
        "mobilenet_v1_025_imagenet.h5",
        "ssrnet_densenet19.json",
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


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        *((folder, name) for folder, names in FILES.items() for name in names),
        *(
            pytest.param(folder, name, marks=pytest.mark.slow)
            for folder, names in MORE_OF_THE_SAME.items()
            for name in names
        ),
    ],
)
def test_a_real_file_without_code_equals_tf_keras(
    shared_data: Path, legacy: LegacyProcess, folder: str, name: str
) -> None:
    path = shared_data / folder / name
    weights = path.with_suffix(".h5") if path.suffix == ".json" else None
    if weights is None:
        original = read(path)
    else:
        original = tf_keras.models.model_from_json(path.read_text())
        original.load_weights(weights)
    model = opened(path, legacy, weights)
    assert difference(model, original) < 1e-5
    assert [x.name for x in model.inputs] == [x.name for x in original.inputs]
    assert [x.name.replace("/", "_") for x in original.layers] == [x.name for x in model.layers]


def test_the_real_saved_model_equals_the_file_derived_from_it(
    shared_data: Path, legacy: LegacyProcess
) -> None:
    model = opened(shared_data / "mlperf_tiny" / "dscnn_kws_savedmodel", legacy)
    original = read(shared_data / "mlperf_tiny" / "dscnn_kws.h5")

    assert difference(model, original) < 1e-5
