from __future__ import annotations

import sys

import numpy as np
import pytest

from edgeprune.data import parse_preprocess
from edgeprune.errors import DataError

BATCH = np.arange(256, dtype=np.uint8)[: 2 * 4 * 4 * 3].reshape(2, 4, 4, 3)
FORMS = (
    "Choose raw (values as stored), unit (x / 255), symmetric (x / 127.5 - 1), "
    "'standardize:mean=125.3,122.9,113.9;std=63,62,66.7' ((x - mean) / std, one number or one per "
    "channel; quote it, the shell splits at ';') or module:function (your own code)."
)
THREE = "standardize:mean=125.3,122.9,113.9;std=63,62,66.7"


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    """A module of the user in the current folder."""
    (tmp_path / "my_scaling.py").write_text(
        "def halve(batch):\n    batch /= 2\n    return batch\n\nnumber = 3\n"
        "def shrink(batch):\n    return batch[:, :2]\n"
    )
    (tmp_path / "broken_scaling.py").write_text("import no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("my_scaling", "broken_scaling"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("raw", lambda x: x),
        ("unit", lambda x: x / 255),
        ("symmetric", lambda x: x / 127.5 - 1),
        ("standardize:mean=100;std=50", lambda x: (x - 100) / 50),
        (THREE, lambda x: (x - [125.3, 122.9, 113.9]) / [63, 62, 66.7]),
        ("standardize:std=2;mean=1,2,3", lambda x: (x - [1, 2, 3]) / 2),
        (lambda x: x + 1, lambda x: x + 1),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int32])
def test_every_form_scales_as_it_says(spec, expected, dtype):
    result = parse_preprocess(spec)(BATCH.astype(dtype))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected(BATCH.astype(np.float64)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", ["raw", "unit", "symmetric", THREE, "numpy:sqrt"])
def test_the_name_gives_the_same_scaling_again(spec):
    first = parse_preprocess(spec)
    again = parse_preprocess(first.name)
    assert again.name == first.name
    np.testing.assert_array_equal(first(BATCH), again(BATCH))
    assert parse_preprocess(first) is first


def test_a_function_is_called_by_where_it_is_defined():
    assert parse_preprocess(np.ravel).name == "numpy:ravel"


def test_a_function_of_the_user_is_imported_from_the_current_folder(user_code):
    preprocess = parse_preprocess("my_scaling:halve")
    assert preprocess.name == "my_scaling:halve"
    np.testing.assert_array_equal(preprocess(BATCH), BATCH / np.float32(2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_scaling:halv", "'my_scaling' has no function or class 'halv'. Did you mean 'halve'?"),
        ("my_scaling:number", "'my_scaling' has no function or class 'number'."),
        (
            "no_scaling:f",
            "importing 'no_scaling' failed (ModuleNotFoundError: No module named 'no_scaling'). "
            "It must be in the current folder or on PYTHONPATH.",
        ),
        (
            "broken_scaling:f",
            "importing 'broken_scaling' failed (ModuleNotFoundError: No module named "
            "'no_such_module'). It must be in the current folder or on PYTHONPATH.",
        ),
    ],
)
def test_a_function_that_cannot_be_imported_is_refused(user_code, spec, message):
    with pytest.raises(DataError) as error:
        parse_preprocess(spec)
    assert str(error.value) == f"--preprocess {spec}: {message}"


def test_a_function_must_keep_the_shape(user_code):
    with pytest.raises(DataError) as error:
        parse_preprocess("my_scaling:shrink")(BATCH)
    assert str(error.value) == (
        "--preprocess my_scaling:shrink must return numbers of the shape it is given, "
        "(2, 4, 4, 3). It returned float32 of shape (2, 2, 4, 3)."
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("units", f"'units' is not a --preprocess value. Did you mean 'unit'? {FORMS}"),
        ("my:", f"'my:' is not a --preprocess value. {FORMS}"),
        ("", f"'' is not a --preprocess value. {FORMS}"),
        ("standardize", f"Cannot read --preprocess 'standardize': 'mean' is missing. {FORMS}"),
        (
            "standardize:mean=1,2,3",
            f"Cannot read --preprocess 'standardize:mean=1,2,3': 'std' is missing. {FORMS}",
        ),
        (
            "standardize:mean=1,x;std=1",
            "Cannot read --preprocess 'standardize:mean=1,x;std=1': could not convert string to "
            f"float: 'x'. {FORMS}",
        ),
        (
            "standardize:mean=1;std=1;variance=2",
            "Cannot read --preprocess 'standardize:mean=1;std=1;variance=2': 'variance' is neither "
            f"mean nor std. {FORMS}",
        ),
        (
            "standardize:mean=1;std=0",
            "Cannot read --preprocess 'standardize:mean=1;std=0': mean must be finite and std "
            "greater than zero.",
        ),
        (
            "standardize:mean=nan;std=1",
            "Cannot read --preprocess 'standardize:mean=nan;std=1': mean must be finite and std "
            "greater than zero.",
        ),
        (
            "standardize:mean=1,2,3;std=1,2",
            "Cannot read --preprocess 'standardize:mean=1,2,3;std=1,2': 3 numbers for mean and 2 "
            "for std. Give one number or one per channel.",
        ),
    ],
)
def test_a_malformed_value_shows_the_forms(spec, message):
    with pytest.raises(DataError) as error:
        parse_preprocess(spec)
    assert str(error.value) == message


def test_numbers_for_other_channels_than_the_samples_have_are_refused():
    with pytest.raises(DataError) as error:
        parse_preprocess("standardize:mean=1,2;std=3")(BATCH)
    assert str(error.value) == (
        "--preprocess standardize:mean=1.0,2.0;std=3.0 has 2 numbers for mean, but the samples "
        "have 3 channels. Give one number or one per channel."
    )
