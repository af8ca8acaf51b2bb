from __future__ import annotations

import numpy as np
import pytest

from edgeprune.data import load_dataset, parse_preprocess, read_samples

keras = pytest.importorskip("keras", reason="training needs edgeprune[tensorflow]")

from edgeprune.cli.demonstration import train_digits_model  # noqa: E402


@pytest.fixture(scope="module")
def trained():
    epochs = []
    model = train_digits_model(0, on_epoch=lambda done, total: epochs.append((done, total)))
    return model, epochs


def test_unseen_digits_are_recognised(trained):
    dataset = load_dataset("digits", input_shape=(8, 8, 1))
    test = read_samples(dataset, dataset.splits["test"], parse_preprocess("raw"))
    probabilities = trained[0].predict(test.inputs, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == test.targets).mean() > 0.97


def test_the_progress_ends_at_the_last_epoch(trained):
    epochs = trained[1]
    total = len(epochs)
    assert total > 1
    assert epochs == [(done, total) for done in range(1, total + 1)]


def test_the_model_is_small_residual_and_readable(trained):
    model = trained[0]
    assert 30_000 <= model.count_params() <= 60_000
    assert [tensor.name for tensor in model.inputs] == ["image"]
    assert model.layers[-1].name == "digit"
    kinds = [type(layer) for layer in model.layers]
    assert kinds.count(keras.layers.Add) == 3
    assert keras.layers.BatchNormalization in kinds
    assert not model.compiled


def test_the_model_opens_again(trained, tmp_path):
    trained[0].save(tmp_path / "digits.keras")
    again = keras.saving.load_model(tmp_path / "digits.keras")
    x = np.random.default_rng(0).uniform(0, 16, (4, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(
        again.predict(x, verbose=0), trained[0].predict(x, verbose=0), atol=1e-6
    )
