"""Damaged model files, made by the number: each opens as what it is, or is refused in one line.

`python tests/fuzzing/corrupted_files.py --count 500` tries seeds until the number is reached, goes
on after the last one in its log, and ends with the seeds that failed. A file that ends the process
or takes minutes is a failure too, so every batch runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SECONDS_PER_FILE = 120
NAMES = ("new.keras", "new.h5", "new.json", "old.keras", "old.h5", "first.h5")
ODD = (
    None, True, -1, 0, 10**9, 2**70, 1e308, float("nan"), "", "\x1b[31mred\n\r\u202e", "../../etc",
    [], {}, [[]], [None], {"class_name": 3}, {"class_name": "Dense"}, {"config": {}}, "9" * 5000,
)  # fmt: skip


def save_originals(folder: Path) -> None:
    """Write the honest files, of Keras 3 and of tf_keras, from one small network."""
    import keras
    import tf_keras

    for kit, name in ((keras, "new"), (tf_keras, "old")):
        layers = kit.layers
        x = kit.Input((8, 8, 2), name="image")
        y = layers.Conv2D(4, 3, activation="relu", name="stem")(x)
        y = layers.BatchNormalization(name="norm")(y)
        inner = kit.Sequential([kit.Input((6, 6, 4)), layers.DepthwiseConv2D(3)], name="inner")
        y = layers.Flatten(name="flat")(layers.Add(name="sum")([inner(y), inner(y)]))
        model = kit.Model(x, layers.Dense(3, activation="softmax", name="head")(y), name="net")
        random = np.random.default_rng(1)
        model.set_weights([random.uniform(0.1, 1, w.shape) for w in model.get_weights()])
        for suffix in ("keras", "h5"):
            model.save(folder / f"{name}.{suffix}")
        if kit is keras:
            (folder / "new.json").write_text(model.to_json())
            model.save_weights(folder / "new.weights.h5")
    first = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    first.save(folder / "first.h5")


def corrupt(path: str | os.PathLike[str], seed: int) -> str:
    """Damage a model file in place.

    Args:
        path: a `.keras`, `.h5` or `.json` file.
        seed: what is damaged, and how; the same file and seed give the same damage.

    Returns:
        What was done, in words.
    """
    path, random = Path(path), np.random.default_rng(seed)
    special: dict[str, tuple[Callable[[Path, Any], str], ...]] = {
        ".keras": (_damage_archive, _damage_archive, _damage_configuration),
        ".h5": (_damage_hdf5, _damage_hdf5, _damage_configuration),
        ".json": (_damage_configuration,),
    }
    ways = (_damage_bytes, *special[path.suffix])
    return ways[random.integers(len(ways))](path, random)


def _damage_bytes(path: Path, random: Any) -> str:
    content = bytearray(path.read_bytes())
    size = len(content)
    at, length = int(random.integers(size)), int(random.integers(1, 200))
    way = random.choice(["flip", "flips", "cut", "zeros", "noise", "insert", "remove", "head"])
    if way == "flip":
        content[at] ^= 1 << int(random.integers(8))
    elif way == "flips":
        for place in random.integers(size, size=20):
            content[place] ^= 1 << int(random.integers(8))
    elif way == "cut":
        del content[at:]
    elif way == "zeros":
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif way == "noise":
        content[at : at + length] = random.bytes(len(content[at : at + length]))
    elif way == "insert":
        content[at:at] = random.bytes(length)
    elif way == "remove":
        del content[at : at + length]
    else:
        content[: min(length, 64)] = random.bytes(min(length, 64))
    path.write_bytes(content)
    return f"bytes: {way} at {at}"


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in inside:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _places(value, (*path, key))
    return found


def _damage_json(text: str, random: Any) -> tuple[str, str]:
    config = json.loads(text)
    places = _places(config)
    place = places[random.integers(len(places))]
    node = config
    for key in place[:-1]:
        node = node[key]
    way = random.choice(["odd", "odd", "odd", "remove", "repeat", "deep", "number", "cut"])
    if way == "remove":
        del node[place[-1]]
    elif way == "repeat" and isinstance(node, list):
        node.append(node[place[-1]])
    elif way == "deep":
        depth = int(random.choice([90, 300, 900]))
        value: Any = node[place[-1]]
        for _ in range(depth):
            value = [value]
        node[place[-1]] = value
    elif way == "number":
        node[place[-1]] = int(random.integers(-3, 10)) * 10 ** int(random.integers(12))
    elif way == "cut":
        return text[: random.integers(len(text))], "configuration: cut"
    else:
        node[place[-1]] = ODD[random.integers(len(ODD))]
    return json.dumps(config), f"configuration: {way} at {'/'.join(map(str, place))}"


def _damage_configuration(path: Path, random: Any) -> str:
    if path.suffix == ".json":
        text, done = _damage_json(path.read_text(), random)
        path.write_text(text)
    elif path.suffix == ".keras":
        entries = _read_entries(path)
        text, done = _damage_json(entries["config.json"].decode(), random)
        _write_entries(path, list({**entries, "config.json": text.encode()}.items()))
    else:
        import h5py

        with h5py.File(path, "r+") as file:
            text, done = _damage_json(str(file.attrs["model_config"]), random)
            file.attrs["model_config"] = text
    return done


def _read_entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write_entries(path: Path, entries: list[tuple[str, bytes]], packed: bool = False) -> None:
    how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", how) as archive:
        warnings.simplefilter("ignore")  # about names that are there twice: that is the point
        for name, content in entries:
            archive.writestr(name, content)


def _damage_archive(path: Path, random: Any) -> str:
    entries = _read_entries(path)
    name = str(random.choice(sorted(entries)))
    way = random.choice(["missing", "twice", "weights", "text", "bomb", "outside", "folder"])
    if way == "missing":
        del entries[name]
    elif way == "text":
        entries[name] = random.bytes(100)
    elif way == "outside":
        entries["../" * 3 + name] = b"x"
    elif way == "folder":
        entries[f"{entries.pop(name)[:0].decode()}{name}/"] = b""
    elif way == "bomb":
        entries[name] = bytes(80 * 2**20)
    elif way == "weights":
        with tempfile.TemporaryDirectory() as folder:
            inner = Path(folder) / "inner.h5"
            inner.write_bytes(entries["model.weights.h5"])
            done = (_damage_bytes, _damage_hdf5)[random.integers(2)](inner, random)
            entries["model.weights.h5"] = inner.read_bytes()
        way = f"weights, {done}"
    pairs = list(entries.items())
    if way == "twice":
        pairs.append((name, entries[name]))
    _write_entries(path, pairs, packed=way == "bomb")
    return f"archive: {way} {name}"


def _damage_hdf5(path: Path, random: Any) -> str:
    import h5py

    with h5py.File(path, "r+") as file:
        found: list[str] = ["/"]
        file.visit(lambda name: found.append(f"/{name}"))
        name = str(random.choice(found))
        entry = file[name]
        way = random.choice(["attribute", "attribute", "remove", "replace", "group", "huge"])
        if way == "attribute":
            values: list[Any] = [
                3,
                2.5,
                b"\xff\xfe",
                "",
                np.zeros(3),
                [b"a", b"b"],
                h5py.Empty("f4"),
            ]
            keys = [*entry.attrs, "layer_names", "weight_names", "keras_version", "model_config"]
            key = str(random.choice(keys))
            entry.attrs[key] = values[random.integers(len(values))]
            name = f"{name}:{key}"
        elif name != "/":
            del file[name]
            if way == "replace":
                kinds = [np.zeros((2, 2)), np.array(b"text"), np.zeros(0), np.float32(np.nan)]
                file[name] = kinds[random.integers(len(kinds))]
            elif way == "group":
                file.create_group(name)
            elif way == "huge":
                file.create_dataset(name, (2**20, 2**14), "f4", chunks=(64, 64), compression=9)
    return f"hdf5: {way} {name}"


def check(path: Path, original: Path, done: str) -> str:
    """Say what is wrong with the way a damaged file is treated; nothing is an empty text.

    Damage to the bytes of an archive must not change what it computes: it has checksums. HDF5 has
    none, and another configuration may be a model as well.
    """
    import keras

    from edgeprune.cli.failures import explain
    from edgeprune.errors import EdgepruneError
    from edgeprune.loading import load_model

    def load(file: Path) -> Any:
        weights = file.with_name("new.weights.h5") if file.suffix == ".json" else None
        return load_model(file, weights=weights)

    try:
        model = load(path)
    except EdgepruneError as error:
        line = explain(error)[1]
        clean = line.isprintable() and 20 < len(line) < 1500
        return "" if clean else f"not one clean line: {line!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(model, keras.Model):
        return f"gives a {type(model).__name__}"
    if path.suffix == ".keras" and done.startswith("bytes"):
        inputs = np.random.default_rng(0).random((2, 8, 8, 2), "float32")
        if not np.array_equal(model(inputs), load(original)(inputs)):
            return "computes something else than before"
    return ""


def try_seed(originals: Path, folder: Path, seed: int) -> tuple[str, str]:
    """Damage one of the originals and open it: what was done, and what is wrong."""
    name = NAMES[seed % len(NAMES)]
    for file in originals.iterdir():
        shutil.copy(file, folder / file.name)
    done = corrupt(folder / name, seed)
    return f"{name}, {done}", check(folder / name, originals / name, done)


def share_legacy_process() -> None:
    """Start tf_keras once for all files: its import takes seconds."""
    from edgeprune.loading import models
    from edgeprune.loading.references import LegacyProcess

    shared: list[LegacyProcess] = []

    class Shared:
        def __enter__(self) -> LegacyProcess:
            if not shared or shared[0]._process.poll() is not None:
                shared[:] = [LegacyProcess()]
            return shared[0]

        def __exit__(self, *_: object) -> None:
            pass

    models.LegacyProcess = Shared  # type: ignore[assignment,misc]


def _serve(originals: str, start: int, stop: int) -> None:
    share_legacy_process()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(start, stop):
            done, wrong = try_seed(Path(originals), Path(folder), seed)
            print(json.dumps([seed, done, wrong]), file=answers, flush=True)


def main(count: int = 500, start_seed: int = 0, log: str | os.PathLike[str] = "") -> int:
    """Try damaged files, one per seed, and print those that were not treated well.

    Args:
        count: how many, those in the log included.
        start_seed: the first.
        log: file with one JSON line per seed; a run goes on after the last one. Without a name,
            `fuzz-corrupted-files.jsonl` in the working folder.

    Returns:
        How many failed.
    """
    log_file = Path(log or "fuzz-corrupted-files.jsonl")
    results: dict[int, tuple[str, str]] = {}
    if log_file.exists():
        for line in log_file.read_text().splitlines():
            with_seed = json.loads(line)
            results[with_seed[0]] = (with_seed[1], with_seed[2])
    stop = start_seed + count
    with tempfile.TemporaryDirectory() as originals, log_file.open("a") as file:
        save_originals(Path(originals))
        while missing := [seed for seed in range(start_seed, stop) if seed not in results]:
            end = next(s for s in range(missing[0], stop + 1) if s in results or s == stop)
            for seed, done, wrong in _batch(originals, missing[0], min(end, missing[0] + 100)):
                results[seed] = (done, wrong)
                print(json.dumps([seed, done, wrong]), file=file, flush=True)
                print(f"seed {seed}: {done}: {wrong or 'ok'}", flush=True)
    ours = {seed: results[seed] for seed in range(start_seed, stop)}
    failed = {seed: result for seed, result in ours.items() if result[1]}
    for seed, (done, wrong) in failed.items():
        print(f"FAILED seed {seed}: {done}: {wrong}")
    print(f"corrupted files: seeds {start_seed} to {stop - 1}, {len(failed)} failed")
    return len(failed)


def _batch(originals: str, start: int, stop: int) -> Any:
    """Yield the results of some seeds from a process of their own, its end included."""
    command = [sys.executable, "-P", __file__, "--serve", originals, str(start), str(stop)]
    seed = start
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in _lines(process):
            seed, done, wrong = json.loads(line)
            yield seed, done, wrong
            seed += 1
    if seed < stop:
        yield seed, "unknown", f"the process ended with {process.returncode}"


def _lines(process: subprocess.Popen[str]) -> Any:
    """Yield lines of a process as long as each comes in time; else end it."""
    import threading

    assert process.stdout is not None and process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
    while True:
        timer = threading.Timer(SECONDS_PER_FILE, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            return
        yield line


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        _serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--start-seed", type=int, default=0)
    parser.add_argument("--log", default="")
    given = parser.parse_args()
    sys.exit(main(given.count, given.start_seed, given.log) > 0)
