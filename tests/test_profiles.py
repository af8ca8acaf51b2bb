"""Where the time goes: models that end after their first operators, and what follows from them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import small_models
import ssh_server
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from specialists import run_command
from test_harness import load

from edgeprune.benchmarking import SshTransport, profile
from edgeprune.benchmarking.profiles import compare_profiles, read_profile
from edgeprune.boards import find_target
from edgeprune.cost.cost_model import CostModel
from edgeprune.latency import deploy
from edgeprune.tflite import convert
from edgeprune.tflite.metadata import attach_files
from edgeprune.tracing.groups import find_groups

QUICK = {"seconds": 0.1, "threads": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """With labels behind the file, with floats around integers, and with a branch."""
    folder = tmp_path_factory.mktemp("models")
    paths = {name: folder / f"{name}.tflite" for name in ("float", "int8")}
    model = small_models.classifier()
    content = convert(model, scheme="float32")
    paths["float"].write_bytes(attach_files(content, {"labels.txt": "a\nb\nc\n"}))
    convert(model, calibration=small_models.samples(20), path=paths["int8"])
    return paths


def run(content: bytes, sample: np.ndarray, **options) -> Interpreter:
    interpreter = Interpreter(model_content=content, **options)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
    interpreter.invoke()
    return interpreter


def check_parts(content: bytes, monkeypatch) -> None:
    """Every part computes what the whole computes until there; read with the schema's classes."""
    graph = load("prefixes", monkeypatch).Graph(content)
    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0)).subgraphs[0]
    assert graph.count == len(parsed.operators)
    details = Interpreter(model_content=content).get_input_details()[0]
    shape, kind = details["shape"], np.dtype(details["dtype"])
    draw = np.random.default_rng(3)
    sample = draw.normal(size=shape) if kind.kind == "f" else draw.integers(0, 99, shape)
    whole = run(content, sample.astype(kind), experimental_preserve_all_tensors=True)
    for count in range(1, graph.count + 1):
        cut = graph.cut(count)
        part = schema.ModelT.InitFromObj(schema.Model.GetRootAs(cut, 0)).subgraphs[0]
        assert len(part.operators) == count
        used = {index for operator in part.operators for index in operator.inputs}
        made = {int(index) for operator in part.operators for index in operator.outputs}
        assert set(part.outputs) >= made - used, "else a runtime may leave them out"
        found = run(cut, sample.astype(kind))
        for entry in found.get_output_details():
            values, expected = (each.get_tensor(entry["index"]) for each in (found, whole))
            step = 1e-5 if values.dtype.kind == "f" else 1
            assert np.abs(values - expected.astype(values.dtype)).max() <= step


def test_a_part_computes_what_the_whole_computes_until_there(models, monkeypatch) -> None:
    for path in models.values():
        check_parts(path.read_bytes(), monkeypatch)


def test_real_files_are_cut_too(shared_data, monkeypatch) -> None:
    for name in ("resnet8_cifar10_float", "dscnn_kws_int8"):
        check_parts((shared_data / "mlperf_tiny" / f"{name}.tflite").read_bytes(), monkeypatch)


def test_differences_are_the_times_of_operators(models) -> None:
    """Times that are known, each round slower by something else than the operators."""
    count = len(read_layers(models["float"]))
    truth = np.arange(1.0, count + 1)
    until = np.cumsum(truth)
    until = np.append(until, until[-1])
    delays = np.array([0.7, 0.0, 0.1, 2.0])
    found = read_profile((until[:, None] + delays).tolist(), models["float"])
    assert [entry.ms for entry in found.operators] == pytest.approx(truth.tolist())
    assert [entry.error_ms for entry in found.operators[1:]] == pytest.approx(
        [0.1 * 2**0.5] * (count - 1)
    )
    assert found.sum_ms == pytest.approx(found.whole_ms) and found.agrees
    layers = found.by_layer()
    assert sum(entry.ms for entry in layers.values()) == pytest.approx(found.sum_ms)
    assert list(layers.values()) == sorted(layers.values(), key=lambda entry: -entry.ms)


def read_layers(path: Path) -> list:
    return schema.ModelT.InitFromObj(
        schema.Model.GetRootAs(path.read_bytes(), 0)
    ).subgraphs[0].operators  # fmt: skip


def test_an_operator_never_takes_less_than_nothing(models) -> None:
    count = len(read_layers(models["float"]))
    draw = np.random.default_rng(1).uniform(1, 2, (count + 1, 4))
    found = read_profile(draw.tolist(), models["float"])
    assert min(entry.ms for entry in found.operators) >= 0
    slow = read_profile([[9, 9]] * count + [[5, 5]], models["float"])
    assert not slow.agrees, "9 ms of parts of a model that takes 5"


def test_two_models_are_compared_layer_by_layer(models, tmp_path) -> None:
    words = ("--profile", "--seconds", 0.1, "--threads", 1)
    shown = run_command("bench", *models.values(), *words, "--out", tmp_path / "out")
    assert shown.code == 0, shown.err
    assert "Where the time goes, ms per inference" in shown.out
    assert "The runtime's Python package times no operators" in shown.out
    assert (tmp_path / "out" / "profile.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((tmp_path / "out" / "measurement.json").read_text())
    for row in document["measurements"]:
        operators = row["profile"]["operators"]
        parsed = schema.ModelT.InitFromObj(
            schema.Model.GetRootAs(models[row["model"].removesuffix(".tflite")].read_bytes(), 0)
        ).subgraphs[0]
        outputs = [parsed.tensors[each.outputs[0]].name.decode() for each in parsed.operators]
        assert [entry["output"] for entry in operators] == outputs
        nodes = json.loads((tmp_path / "out" / f"{row['model']}.node_data.json").read_text())
        assert set(nodes["main"]["results"]) == set(outputs)


@pytest.mark.slow
@pytest.mark.skipif(
    ssh_server.why_there_is_none() is not None, reason=ssh_server.why_there_is_none() or ""
)
def test_a_board_times_its_operators(models, tmp_path) -> None:
    server = ssh_server.make_server(tmp_path)
    server.start()
    try:
        board = SshTransport("board", config=server.config, python=sys.executable)
        result = profile(models, transport=board, **QUICK)
    finally:
        server.stop()
    profiles = {entry.model: entry.profile for entry in result.measurements}
    for name, found in profiles.items():
        assert len(found.operators) == len(read_layers(models[name]))
    assert {len(times) for _, times in compare_profiles(profiles)} == {2}


def test_what_cannot_be_profiled_is_refused_at_once(models) -> None:
    answer = run_command("bench", models["int8"], "--profile", "--energy", "rapl")
    assert answer.code == 2
    assert "--profile times operators, nothing else: no energy, no batch." in answer.err


def test_groups_are_listed_with_the_milliseconds_that_they_are_worth(tmp_path) -> None:
    model = small_models.classifier()
    model.save(tmp_path / "model.keras")
    plain = json.loads(run_command("inspect", tmp_path / "model.keras", "--json").out)
    assert "milliseconds" not in plain
    found = json.loads(
        run_command("inspect", tmp_path / "model.keras", "--target", "rpi4", "--json").out
    )
    board = find_target("rpi4")
    costs = CostModel(find_groups(model), deploy("rpi4", board.prediction, board.scheme))
    assert found["milliseconds"] == pytest.approx(costs.spend("latency", {}))
    assert found["predicted"].startswith("predicted for rpi4")
    for entry in found["groups"]:
        step = min(8, max(entry["width"] - 1, 0.5))
        left = costs.spend("latency", {entry["name"]: entry["width"] - step})
        saved = (found["milliseconds"] - left) / step * entry["width"]
        assert entry["milliseconds"] == pytest.approx(max(saved, 1e-6 * found["milliseconds"]))
