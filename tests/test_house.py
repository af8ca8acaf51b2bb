"""The shape of the package, and the parts that its functions take."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_models import Recorder
from specialists import digits, make_classifier, save_digits

import edgeprune

PACKAGE = Path(edgeprune.__file__).parent
UNMEASURED = edgeprune.Measurement(latency=False)


def test_the_root_holds_folders_and_no_two_files_share_a_name() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 4
    assert len(list((PACKAGE / "building").glob("*.py"))) <= 7
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
    assert max(len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")) <= 500


@pytest.mark.parametrize("name", ["build", "prune", "fine_tune", "prune_in_rounds", "bench"])
def test_public_functions_take_at_most_ten_parameters(name: str) -> None:
    parameters = inspect.signature(getattr(edgeprune, name)).parameters.values()
    assert len(parameters) <= 10
    assert not [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]


def test_keywords_of_the_last_release_work_and_say_where_they_went(tmp_path: Path) -> None:
    model, images = make_classifier(), digits()[0][:80].astype(np.float32)
    with pytest.warns(DeprecationWarning, match=r"give pruning=Pruning\(method=\.\.\.\)"):
        old = edgeprune.prune(model, images, method="chapr", seed=3)
    new = edgeprune.prune(model, images, pruning=edgeprune.Pruning("chapr", seed=3))
    assert old.plan == new.plan
    data = save_digits(tmp_path / "digits.npz")
    with pytest.warns(DeprecationWarning) as told:
        built = edgeprune.build(
            model, data, preprocess="unit", quantize="float32", measure=False, method="chapr",
            training="fast", out=tmp_path / "out",
        )  # fmt: skip
    ours = [str(warning.message) for warning in told if "has moved" in str(warning.message)]
    assert len(ours) == 4
    settings = built.outcome.settings
    assert (settings["preprocess"], settings["quantize"], settings["method"]) == (
        "unit", "float32", "chapr"
    )  # fmt: skip
    assert built.outcome.latency_ms is None
    with pytest.warns(DeprecationWarning, match="edgeprune.Training"):
        assert edgeprune.FineTuning is edgeprune.Training


def test_the_original_is_tested_before_anything_is_pruned(tmp_path: Path) -> None:
    recorder = Recorder()
    data = edgeprune.Data(save_digits(tmp_path / "digits.npz"), calibration=10, test=100)
    pruning = edgeprune.Pruning("chapr")
    with edgeprune.showing(recorder):
        edgeprune.build(
            make_classifier(), data, pruning=pruning, export="float32", measurement=UNMEASURED,
            training="fast", out=tmp_path / "out",
        )  # fmt: skip
    stages = [name for name, *_ in recorder.stages]
    assert stages.index("testing the original") < stages.index("tracing")


def test_a_budget_that_the_file_cannot_meet_ends_with_one_line(tmp_path: Path) -> None:
    data = save_digits(tmp_path / "digits.npz")
    with pytest.raises(edgeprune.BudgetError, match=r"size=.*"):
        edgeprune.build(
            make_classifier(), data, budget="size=3KB", measurement=UNMEASURED,
            training="fast", out=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_build_never_writes_where_it_reads(tmp_path: Path) -> None:
    model = tmp_path / "net.keras"
    make_classifier().save(model)
    data = save_digits(tmp_path / "digits.npz")
    for given in (model, make_classifier()):
        with pytest.raises(edgeprune.EdgepruneError, match="is the folder of an input"):
            edgeprune.build(given, data, out=tmp_path, measurement=UNMEASURED)
    assert {path.name for path in tmp_path.iterdir()} == {"net.keras", "digits.npz"}
