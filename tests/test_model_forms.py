"""Whatever takes a model takes it in every form, and what comes out does not depend on the form."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from model_forms import FORMS, images, make
from specialists import run_command, save_digits

import edgeprune
from edgeprune.cli.commands import edgeprune as commands
from edgeprune.distillation.objectives import attend, find_block_ends, make_comparable
from edgeprune.tflite.runtime import TFLiteModel
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.outputs import output_kinds
from edgeprune.tracing.replica import duplicate, replace_softmax

Job = Callable[[Any, Path], Any]
TRAINING = edgeprune.Training(seconds=None, epochs=1, batch_size=15, augmentation=None, rounds=2)
PLAIN = edgeprune.Pruning(recovery="affine", recalibration="off", step=4)
OPTIONS = (
    "--recovery", "affine", "--recalibrate", "off", "--effort", "fast", "--calibration", 20,
    "--validation", 20,
)  # fmt: skip


def answers(model: Any) -> np.ndarray:
    return np.asarray(model(images(20)[0], training=False))


def tflite_answers(model: Any) -> np.ndarray:
    return TFLiteModel(model).predict(images(20)[0])


def build(model: Any, folder: Path) -> Any:
    built = edgeprune.build(
        model,
        edgeprune.Data(save_digits(folder / "digits.npz"), calibration=20, validation=20, test=20),
        classes="3,5,8", pruning=PLAIN, export="float32", training="fast",
        measurement=edgeprune.Measurement(latency=False), out=folder / "out",
    )  # fmt: skip
    return answers(built.model), tflite_answers(folder / "out" / "model.tflite")


def prune(how: Callable[..., Any]) -> Job:
    return lambda model, folder: answers(
        how(model, images(60), budget="macs=60%", pruning=PLAIN).model
    )


def prune_in_rounds(model: Any, folder: Path) -> Any:
    pruned, _ = edgeprune.prune_in_rounds(
        model, images(60), budget="macs=60%", training=TRAINING, pruning=PLAIN
    )
    return answers(pruned.model)


def fine_tune(model: Any, folder: Path) -> Any:
    worse = duplicate(model)
    worse.set_weights([0.8 * weight for weight in model.get_weights()])
    tuned = edgeprune.fine_tune(worse, model, images(60), settings=TRAINING)
    return [np.array([entry.loss, entry.closeness]) for entry in tuned.history]


FUNCTIONS: Mapping[str, Job] = {
    "build": build,
    "convert": lambda model, folder: tflite_answers(edgeprune.convert(model, scheme="float32")),
    "find_groups": lambda model, folder: [
        (group.width, bool(group.locked)) for group in edgeprune.find_groups(model)
    ],
    "fine_tune": fine_tune,
    "load_model": lambda model, folder: answers(edgeprune.load_model(model)),
    "prune": prune(edgeprune.prune),
    "prune_in_rounds": prune_in_rounds,
}


def run(folder: Path, *arguments: object) -> Any:
    answer = run_command(*arguments, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def build_file(model: Path, folder: Path) -> Any:
    words = ("--data", save_digits(folder / "digits.npz"), "--test", 20, "--no-bench", *OPTIONS)
    report = run(folder, "build", model, *words, "--out", folder / "out")
    kept = edgeprune.load_model(folder / "out" / "model.keras")
    found = tflite_answers(folder / "out" / "model.tflite")
    assert np.abs(found - answers(kept)).max() < 0.2, "int8 is near what it was made from"
    return report["params"], report["macs"], answers(kept)


def prune_file(model: Path, folder: Path) -> Any:
    data = save_digits(folder / "digits.npz")
    run(folder, "prune", model, "--data", data, *OPTIONS, "--out", folder / "slim.keras")
    return answers(edgeprune.load_model(folder / "slim.keras"))


def convert_file(model: Path, folder: Path) -> Any:
    out = folder / "model.tflite"
    run(folder, "convert", model, "--quantize", "float32", "--out", out)
    return tflite_answers(out)


def measure_sensitivity(model: Path, folder: Path) -> Any:
    data = save_digits(folder / "digits.npz")
    words = ("--data", data, "--step", 32, "--calibration", 10, "--validation", 10)
    found = run(folder, "sensitivity", model, *words, "--out", folder / "curves.json")
    return list(found.values())[2:]


def inspect_file(model: Path, folder: Path) -> Any:
    found = run(folder, "inspect", model, "--picture", folder / "model.dot")
    return [group["width"] for group in found["groups"]]


COMMANDS: Mapping[str, Job] = {
    "build": build_file,
    "check": lambda model, folder: [
        run(folder, "check", model, "--target", target)[key]
        for target in ("rpi4", "coral-usb")
        for key in ("fits", "activation_bytes")
    ],
    "convert": convert_file,
    "inspect": inspect_file,
    "prune": prune_file,
    "sensitivity": measure_sensitivity,
}


def test_nothing_that_takes_a_model_is_left_out() -> None:
    public = edgeprune.__all__
    functions = {name for name in public if inspect.isfunction(getattr(edgeprune, name))}
    files_or_classes = {"bench", "rule", "showing"}
    assert functions - files_or_classes == set(FUNCTIONS)
    taking = {
        name
        for name, found in commands.commands.items()
        if "model" in {p.name for p in found.params}
    }
    assert taking == set(COMMANDS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Callable[[str, Job, bool], Any]:
    """What a job makes of the functional form."""

    @cache
    def do(name: str, job: Job, from_file: bool) -> Any:
        folder = tmp_path_factory.mktemp("functional")
        return job(
            save("functional", folder, ".keras") if from_file else make("functional"), folder
        )

    return do


def save(form: str, folder: Path, suffix: str) -> Path:
    make(form).save(folder / f"model{suffix}")
    return folder / f"model{suffix}"


def assert_same(found: Any, wanted: Any) -> None:
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, other, atol=1e-3)
        else:
            assert one == other


OTHERS = [form for form in FORMS if form != "functional"]


def pair(names: Iterable[str], each: int) -> list[Any]:
    """Every job with some of the forms, and every form with some of the jobs; the rest is slow."""
    pairs = []
    for start, name in enumerate(names):
        near = {OTHERS[(each * start + number) % len(OTHERS)] for number in range(each)}
        for form in OTHERS:
            marks = () if form in near else (pytest.mark.slow,)
            pairs.append(pytest.param(name, form, marks=marks, id=f"{name}-{form}"))
    return pairs


@pytest.mark.parametrize(("name", "form"), pair(FUNCTIONS, 2))
def test_a_function_does_the_same_with_every_form(name, form, tmp_path, expected) -> None:
    model = make(form)
    weights = model.get_weights()
    assert_same(FUNCTIONS[name](model, tmp_path), expected(name, FUNCTIONS[name], False))
    assert_same(model.get_weights(), weights)


@pytest.mark.parametrize(("name", "form"), pair(COMMANDS, 1))
def test_a_command_does_the_same_with_every_file(name, form, tmp_path, expected) -> None:
    file = save(form, tmp_path, ".h5" if form.endswith(".h5") else ".keras")
    assert_same(COMMANDS[name](file, tmp_path), expected(name, COMMANDS[name], True))


@pytest.mark.parametrize("form", FORMS)
def test_a_softmax_at_the_end_is_found_wherever_it_lies(form) -> None:
    model = make(form)
    assert [(o.ending, o.kind) for o in output_kinds(build_graph(model))] == [
        ("softmax", "classes")
    ]
    logits = answers(replace_softmax(model))
    assert logits.min() < 0
    np.testing.assert_allclose(keras.ops.softmax(logits), answers(model), atol=1e-5)


@pytest.mark.parametrize("form", ["functional in sequential", "sequential in functional"])
def test_attention_is_transferred_where_a_nested_model_ends(form) -> None:
    model = make(form)
    ends = find_block_ends(model, model)
    assert "body" in ends
    _, maps = make_comparable(model, ends)
    inner = model.get_layer("body")(images(20)[0], training=False)
    found = maps([images(20)[0]], training=False)[1 + ends.index("body")]
    np.testing.assert_allclose(found, attend(inner), atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_answers_alike_from_every_file(form, suffix, tmp_path) -> None:
    found = edgeprune.load_model(save(form, tmp_path, suffix))
    assert_same(answers(found), answers(make("functional")))
