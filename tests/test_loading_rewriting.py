"""Keras is only given configurations that we wrote: no module of a file reaches an importer."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers, ops

from edgeprune.errors import ModelError
from edgeprune.loading import load_model
from edgeprune.loading.safety import rewrite_configuration

PLANTED = [
    {"class_name": "function", "module": "planted", "config": "relu", "registered_name": "relu"},
    {"class_name": "function", "module": "keras", "config": "relu", "registered_name": "p>relu"},
    {"class_name": "Dense", "module": "planted", "config": {"units": 3}, "registered_name": None},
    {"class_name": "Dense", "module": "keras.layers", "config": {}, "registered_name": "planted>D"},
    {"class_name": "__typespec__", "module": "planted", "spec_name": "T", "registered_name": None,
     "config": []},
    {"class_name": "TensorShape", "module": "planted", "registered_name": "T", "config": {}},
    {"class_name": "planted.Dense", "config": {}},
]  # fmt: skip


def network(kit: Any, **settings: Any) -> Any:
    """The same network in Keras 3 or in tf_keras: nested, shared, wrapped, with objects inside."""
    x = kit.Input((6, 6, 2), name="image")
    y = kit.layers.Conv2D(3, 3, name="conv", activation="relu", **settings)(x)
    inner = kit.Sequential([kit.Input((4, 4, 3)), kit.layers.Conv2D(2, 1)], name="inner")
    y = kit.layers.BatchNormalization(name="norm")(inner(y))
    y = kit.layers.Activation(kit.layers.LeakyReLU(0.1) if kit is keras else "elu", name="act")(y)
    y = kit.layers.Flatten(name="flat")(y)
    return kit.Model(x, kit.layers.Dense(2, name="head", kernel_regularizer="l2")(y), name="net")


def positions(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inside = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inside if isinstance(node, dict | list) else ():
        if isinstance(value, dict | list | str):
            yield from positions(value, (*path, key)) if value != "" else ()


def replaced(config: Any, path: tuple[Any, ...], change: Any) -> Any:
    config = copy.deepcopy(config)
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = change(node[path[-1]])
    return config


def objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict) and "class_name" in node:
        yield node
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict | list):
            yield from objects(value)


@pytest.mark.parametrize("generation", [2, 3])
def test_wherever_a_module_is_planted_none_gets_through(generation: int) -> None:
    kit = keras if generation == 3 else tf_keras
    config = json.loads(network(kit).to_json())
    changes = [lambda old, new=new: new for new in PLANTED]
    for key in ("module", "registered_name"):
        changes.append(lambda old, key=key: {**old, key: "planted"} if isinstance(old, dict) else 0)
    refused = 0
    places = list(positions(config))[1:]
    assert len(places) > 60
    for place in places:
        for change in changes:
            try:
                made = rewrite_configuration(replaced(config, place, change), "x", generation, {})
            except ModelError as error:
                assert "\n" not in str(error)
                refused += 1
                continue
            for found in objects(made):
                names = {found["class_name"], found.get("registered_name") or "keras"}
                if found["class_name"] == "function":
                    names.add(found["config"])
                assert not any("planted" in name or ">" in name for name in names), (place, found)
                assert ("module" in found) <= (generation == 3), found
                assert (found.get("module") or "keras").split(".")[0] in ("keras", "builtins")
    assert refused > 300


def test_an_honest_configuration_stays_what_it_is() -> None:
    x = keras.Input((6, 6, 2))
    y = layers.TimeDistributed(layers.Dense(3, dtype="mixed_float16"))(ops.relu(x * 2 + 1))
    y = layers.Bidirectional(layers.LSTM(2))(layers.Reshape((6, -1))(y[:, 1:, ..., None, 0]))
    y = layers.Dropout(0.1)(layers.Activation(keras.activations.gelu)(y))
    for model in (network(keras), keras.Model(x, ops.concatenate([y, ops.abs(y)]))):
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        made = rewrite_configuration(json.loads(json.dumps(config)), "x", 3, {})
        for one, other in zip(objects(made), objects(json.loads(json.dumps(config))), strict=True):
            assert one["class_name"] == other["class_name"]
            assert one.get("config") == other.get("config") or "module" in str(other["config"])
        twin = keras.saving.deserialize_keras_object(made)
        twin.set_weights(model.get_weights())
        sample = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
        np.testing.assert_array_equal(twin(sample), model(sample))


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "old.h5", "old.keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_what_only_matters_to_training_need_not_be_known(name: str, tmp_path: Path) -> None:
    kit = tf_keras if name.startswith("old") else keras

    class Scaled(kit.initializers.Initializer):
        def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
            return np.full(shape, 0.1, "float32")

        def get_config(self) -> dict[str, Any]:
            return {"scale": 2}

    class Small(kit.regularizers.Regularizer):
        def __call__(self, x: Any) -> Any:
            return 0.0 * x[0, 0, 0, 0]

        def get_config(self) -> dict[str, Any]:
            return {}

    class Positive(kit.constraints.Constraint):
        def __call__(self, w: Any) -> Any:
            return w

    settings = {"kernel_regularizer": Small(), "bias_constraint": Positive()}
    model = network(kit, kernel_initializer=Scaled(), **settings)
    model.save(tmp_path / name)
    sample = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")

    opened = load_model(tmp_path / name)

    np.testing.assert_allclose(opened(sample), model(sample), atol=1e-6)
    assert isinstance(opened.get_layer("head").kernel_regularizer, keras.regularizers.L2)
    assert opened.get_layer("conv").kernel_regularizer is None


WATCH = """
    import builtins, json, os, sys, tempfile
    from pathlib import Path
    import tf_keras, keras
    sys.path.insert(0, sys.argv[1])
    from test_loading_rewriting import PLANTED, network, positions, replaced
    from edgeprune.errors import ModelError
    from edgeprune.loading import legacy_worker, models, references
    sys.path.insert(0, os.getcwd())  # where planted.py lies: an import would find it

    # The second process, in this one, so that it is watched too.
    references.LegacyProcess.__init__ = lambda self: setattr(
        self, "_folder", tempfile.TemporaryDirectory()
    )
    references.LegacyProcess.__exit__ = lambda self, *_: self._folder.cleanup()
    def ask(self, request):
        try:
            return legacy_worker.answer(json.loads(json.dumps(request)))
        except Exception as error:
            return {"problem": str(error)}
    references.LegacyProcess._ask = ask

    KEYS = {"activation", "kernel_initializer", "kernel_regularizer", "dtype", "build_config",
            "layers", "inbound_nodes", "config", "strides", "gamma_initializer"}
    WATCHED = {"import", "exec", "compile", "open", "os.system", "subprocess.Popen",
               "pickle.find_class", "marshal.loads", "marshal.load", "ctypes.dlopen"}
    seen = None
    def hook(event, arguments):
        if seen is None or event not in WATCHED:
            return
        what = str(arguments[0])
        if event == "open" and what.startswith((tempfile.gettempdir(), os.getcwd(), "tmp")):
            what = "a file of its own" if "planted" not in what else what
        seen.add((event, what if event in ("import", "open") else ""))
    sys.addaudithook(hook)

    def watch(path, weights):
        global seen
        seen = set()
        try:
            models.load_model(path, weights=weights)
            refused = False
        except ModelError:
            refused = True
        found, seen = seen, None
        return refused, found

    counts = {}
    for generation, kit in ((3, keras), (2, tf_keras)):
        model = network(kit)
        config, path = json.loads(model.to_json()), f"net{generation}.json"
        weights = "new.weights.h5" if generation == 3 else "old.h5"
        model.save_weights(weights)
        honest = set()
        for _ in range(3):  # what is imported late and cached counts as honest
            Path(path).write_text(json.dumps(config))
            refused, found = watch(path, weights)
            assert not refused
            honest |= found
        at = [place for place in positions(config) if place and place[-1] in KEYS]
        at.sort(key=lambda place: place[-1] != "activation")
        at = at[:3] + at[3 :: 3 if generation == 3 else 7]
        for place in at:
            for planted in PLANTED:
                Path(path).write_text(json.dumps(replaced(config, place, lambda _: planted)))
                refused, found = watch(path, weights)
                counts[refused] = counts.get(refused, 0) + 1
                assert found <= honest, (place, planted, found - honest)
    assert "planted" not in sys.modules and not os.path.exists("ran")
    __import__("planted")  # the trap works: this is what would have been seen
    assert os.path.exists("ran")
    print(json.dumps({str(key): value for key, value in counts.items()}))
"""


def test_a_hostile_configuration_imports_runs_and_opens_nothing(tmp_path: Path) -> None:
    """Compared, by audit hooks, with what opening an honest one does."""
    (tmp_path / "planted.py").write_text("open('ran', 'w').close()\ndef relu(x): return x\n")

    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCH), str(Path(__file__).parent)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert process.returncode == 0, process.stderr[-3000:]
    counts = json.loads(process.stdout.splitlines()[-1])
    assert counts["True"] > 50 and counts["False"] > 10
