"""What reaches a terminal: text of one line where it should be one, and no sequence it obeys."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from specialists import run_command

from edgeprune.cli.terminal import warn
from edgeprune.errors import ModelError
from edgeprune.loading import load_model
from edgeprune.support.printable import one_line, printable

NASTY = "conv\x1b[31m\x1b]0;title\x07\r\nFAKE: all is well\u202e\u2028"
ALLOWED = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*")


def assert_clean(text: str) -> None:
    assert ALLOWED.fullmatch(text), repr(text)
    assert not any(line.strip().startswith("FAKE") for line in text.splitlines())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    x = keras.Input((8, 8, 1))
    y = layers.Conv2D(16, 3, name=NASTY, activation="relu")(x)
    y = layers.Conv2D(8, 3, name="second")(y)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(y)), name=NASTY)
    model.save("net.keras")
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(16, 3), layers.Flatten()])
    model.add(layers.Dense(2))
    model.save("plain.keras")  # TensorFlow does not convert names like the others
    for name in (f"a{NASTY.replace('/', '')}", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.full((8, 8), number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path


def test_names_from_files_and_folders_are_shown_and_not_obeyed(place: Path) -> None:
    quick = ["--data", "pictures", "--recovery", "none", "--recalibrate", "off"]
    for words, code in [
        (["inspect", "net.keras"], 0),
        (["prune", "net.keras", *quick], 0),
        (["prune", "net.keras", *quick, "--classes", NASTY], 2),
        (["build", "plain.keras", *quick, "--no-bench", "--out", f"o{NASTY}"], 2),
        (["convert", "plain.keras", "--quantize", "dynamic", "--out", f"m{NASTY}.tflite"], 0),
        (["convert", "net.keras", "--quantize", "dynamic"], 2),
        (["check", "net.keras", "--target", "coral-usb"], 1),
        (["inspect", NASTY], 2),
        (["inspect", "net.keras", "--custom", f"{NASTY}:x"], 2),
        ([NASTY], 2),
    ]:
        answer = run_command(*words)
        assert answer.code == code, answer
        assert_clean(answer.out + answer.err)
        if code == 2:
            assert len(answer.error.splitlines()) == 1
    small = keras.Sequential([keras.Input((4,)), layers.Dense(2)])  # the process is as good as new
    small.compile("adam", "mse")
    small.train_on_batch(np.ones((1, 4)), np.ones((1, 2)))
    answer = run_command("inspect", "net.keras", "--json")
    assert json.loads(answer.out)["groups"][0]["name"].startswith(NASTY)
    assert_clean(answer.out)


def test_a_board_is_shown_and_not_obeyed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / "edgeprune" / "targets"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place))
    text = json.dumps(NASTY.replace("\x7f", ""))
    (folder / "mine.toml").write_text(f'based_on = "rpi4"\ntitle = {text}\n')
    answer = run_command("targets")
    assert "mine" in answer.out + answer.err
    assert_clean(answer.out + answer.err)


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn(f"Layer '{NASTY}' is odd.")
    assert_clean(capsys.readouterr().err)


def test_what_the_library_warns_of_is_told_as_a_warning(place: Path) -> None:
    import tf_keras

    x = tf_keras.Input((4,))
    tf_keras.Model(x, tf_keras.layers.Dense(2, activation=hswish)(x)).save("old.h5")
    answer = run_command("inspect", "old.h5")
    assert answer.code == 0
    assert "Warning: 'old.h5' was opened but could not be compared with tf_keras:" in answer.err


def hswish(x: object) -> object:
    return x


def test_errors_of_frameworks_are_one_line_without_colours() -> None:
    found = one_line(
        ValueError(
            "Exception encountered when calling Add.call().\n\n\x1b[1mShapes (2,)\nand (3,) do not "
            "fit.\x1b[0m\n\nArguments received by Add.call():\n  x=..."
        )
    )
    assert found == "Shapes (2,) and (3,) do not fit"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert printable("Größe 大 \u200d é\xa0😀") == "Größe 大 \u200d é\xa0😀"
    assert printable("a\tb\x00\ud800\u202e") == r"a\tb\x00\ud800\u202e"


def test_several_layers_are_and_use(tmp_path: Path) -> None:
    class Twice(layers.Layer):
        def call(self, x: object) -> object:
            return x

    keras.Sequential([keras.Input((3,)), Twice(name="a"), Twice(name="b")]).save(
        tmp_path / "net.keras"
    )
    with pytest.raises(ModelError, match=r"^Layers 'a', 'b' of 'net.keras' are 'Twice' "):
        load_model(tmp_path / "net.keras")
