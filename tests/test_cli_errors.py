"""What the command says when something is wrong: one line, exit code 2, and nothing is written."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from specialists import digits, make_classifier, make_wrong_rule, run_command, save_digits

from edgeprune.errors import EdgepruneError
from edgeprune.tracing.rules import RULES

ALL = "Known classes: zero, one, two, three, four, five, six, seven, eight, nine."
QUICK = "--recovery none --recalibrate off --effort fast --no-bench --calibration 20 --test 100"


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory) -> Iterator[Path]:
    """The folder that all of them are typed in."""
    folder = tmp_path_factory.mktemp("place")
    model = make_classifier()
    model.save(folder / "model.keras")
    save_digits(folder / "digits.npz")
    (folder / "notes.txt").write_text("not a model")
    (folder / "network.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    (folder / "empty").mkdir()
    kernel, bias = model.get_layer("second").get_weights()
    kernel[0, 0, 0, :2] = np.nan
    model.get_layer("second").set_weights([kernel, bias])
    model.save(folder / "nan.keras")
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(image)
    keras.Model(image, [layers.Dense(3)(x), layers.Dense(2)(x)], name="twins").save(
        folder / "twins.keras"
    )
    maps = layers.Conv2D(3, 1, activation="softmax")(image)
    keras.Model(image, maps, name="maps").save(folder / "maps.keras")
    images = digits()[0][:60, ..., 0]
    np.savez(folder / "large.npz", x=np.zeros((60, 9, 9, 1)), y=np.arange(60) % 10)
    save_folder(folder / "one", {"cat": 3}, images)
    save_folder(folder / "pets", {"cat": 6, "dog": 6, "fox": 6}, images)
    numbers = {str(number): 6 for number in range(10)}
    save_folder(folder / "broken", numbers, images)
    damaged = folder / "broken" / "4" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:70])
    save_folder(folder / "gap", numbers | {"7": 0}, images)
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "blank.txt").write_text("\n \n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\0")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def save_folder(folder: Path, sizes: dict[str, int], images: np.ndarray) -> None:
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(images[:size]):
            Image.fromarray(pixels * 15).save(folder / name / f"{number}.png")


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_refused(place: Path, command: str, *expected: str) -> None:
    before = everything(place)
    answer = run_command(*command.split())
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.error.startswith("Error: ")
    for text in expected:
        assert text in answer.error
    assert everything(place) == before


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("modle.keras", "There is no model at 'modle.keras'. Did you mean 'model.keras'"),
        ("notes.txt", "'notes.txt' is not a Keras model: it is text"),
        ("empty", "'empty' is a folder without saved_model.pb"),
        ("network.tflite", "'network.tflite' is a .tflite file"),
        ("nan.keras", "layer 'second' in 'nan.keras' has 2 values out of"),
        ("twins.keras", "Model 'twins' has 1 input and 2 outputs; expected one of each"),
        ("maps.keras", "Model 'maps' gives outputs of shape (None, 8, 8, 3); expected"),
    ],
)
@pytest.mark.parametrize("command", ["build", "prune"])
def test_models_that_cannot_be_built(place: Path, command: str, model: str, expected: str) -> None:
    assert_refused(place, f"{command} {model} --data digits.npz", expected)


@pytest.mark.parametrize("command", ["inspect", "convert --quantize float32"])
def test_a_wrong_path_is_the_same_error_everywhere(place: Path, command: str) -> None:
    assert_refused(place, f"{command} modle.keras", "There is no model at 'modle.keras'.")


def test_a_picture_that_cannot_be_drawn_is_told_first(place: Path, monkeypatch) -> None:
    assert_refused(place, "inspect modle.keras --picture model.jpeg", "Cannot draw 'model.jpeg'")
    monkeypatch.setenv("PATH", str(place / "empty"))
    expected = "Cannot draw 'model.svg': Graphviz' program 'dot' is not on the PATH."
    assert_refused(place, "inspect modle.keras --picture model.svg", expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("empty", "'empty' holds no images."),
        ("pictures/", "There is no data at 'pictures/'."),
        ("digit", "There is no data at 'digit'. Did you mean 'digits.npz'?"),
        ("digits.npy", "There is no data at 'digits.npy'."),
        ("notes.txt", "'notes.txt' is neither a folder nor an .npz file."),
        ("broken", "Cannot read the image 'broken/4/2.png'"),
        ("gap", "Class '7' has no samples in 'gap'"),
        ("one", "'one' holds one class folder only, 'cat'; at least two are needed"),
        ("large.npz", "have shape (9, 9, 1), but the model reads (8, 8, 1)"),
        ("pets", "The model has 10 outputs, the data names 3 classes (cat, dog, fox)."),
        ("pets --labels labels.txt", "'pets' has the class 'fox', which is not among the given"),
    ],
)
def test_data_that_cannot_serve(place: Path, data: str, expected: str) -> None:
    assert_refused(place, f"build model.keras --data {data}", expected)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("one", "A specialist needs at least two classes"),
        ("one,tow", "Unknown class 'tow'. Did you mean 'two'? " + ALL),
        ("one,10", "There is no class 10: indices run from 0 to 9. " + ALL),
        ("one,1", "Class 'one' was asked for twice."),
        (",", "none was asked for"),
    ],
)
def test_classes_that_do_not_exist(place: Path, classes: str, expected: str) -> None:
    assert_refused(place, f"build model.keras --data digits.npz --classes {classes}", expected)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("macs", "Cannot read the budget 'macs'. Expected QUANTITY=AMOUNT, such as macs=50%"),
        ("macs=half", "Cannot read the budget 'macs=half'."),
        ("speed=2", "Unknown budget quantity 'speed'. Known: macs, params"),
        ("macs=120%", "Budget macs=120% is out of range"),
    ],
)
def test_budgets_that_cannot_be_read(place: Path, budget: str, expected: str) -> None:
    assert_refused(place, f"build model.keras --data digits.npz --budget {budget}", expected)


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_an_impossible_budget_says_what_can_be_reached(place: Path, quantity: str) -> None:
    """And that can be reached."""
    command = f"build model.keras --data digits.npz --classes 1,2 {QUICK} --budget {quantity}="
    answer = run_command(*(command + "0.1%").split())
    assert answer.code == 2
    text = f"The budget {quantity}=0.1% cannot be met: this model can go down to {quantity}="
    assert text in answer.error
    assert "--step 1" in answer.error
    reachable = answer.error.split(text)[1].split()[0]
    assert_refused(place, f"{command}{float(reachable.rstrip('%')) - 0.1:.2f}%", "cannot be met")
    assert run_command(*f"{command}{reachable} --out {place}/../reached --quiet".split()).code == 0


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            "--target rpi44",
            "Unknown target 'rpi44'. Did you mean 'rpi4'? There are coral-dev-board",
        ),
        ("--memory=-3GB", "'-3GB' is no size. Give one such as 4GB or 500MB."),
        ("--memory 50%", "'50%' is no size."),
        ("--method magic", "Unknown method 'magic'. Choose from: auto, "),
        ("--criterion l3", "Unknown criterion 'l3'. Choose from: l1, "),
        ("--allocation magic", "Unknown allocation 'magic'. Choose from: branches, gain"),
        ("--time-limit -1", "The time limit must be at least 0 seconds. Got -1.0."),
        ("--recovery magic", "Unknown recovery 'magic'. Choose from: auto, none, mean,"),
        (
            "--quantize int4",
            "Unknown scheme 'int4'. Choose one of float32, float16, dynamic, int8, int16x8",
        ),
        ("--io int4", "Unknown io type 'int4'. Choose one of float32, int8, uint8."),
        ("--quantize float32 --io int8", "Input and output in int8 need scheme 'int8'"),
        ("--preprocess unite", "'unite' is not a --preprocess value. Did you mean 'unit'?"),
        ("--preprocess nowhere:f", "importing 'nowhere' failed"),
        ("--labels absent.txt", "Cannot read the labels 'absent.txt': No such file or directory."),
        ("--labels blank.txt", "The labels file 'blank.txt' is empty."),
        ("--labels binary.txt", "The labels file 'binary.txt' is not text in UTF-8."),
        ("--labels labels.txt", "class 'zero', which is not among the given class names."),
        ("--out notes.txt", "The output 'notes.txt' is a file; expected a folder"),
        ("--out notes.txt/out", "is a file, not a folder."),
        ("--step 0", "Invalid value for '--step': 0 is too small, expected at least 1."),
        ("--step many", "'many' is not a valid integer"),
        ("--seed -1", "Invalid value for '--seed': -1 is too small, expected at least 0."),
        ("--recalibrate never", "'never' is not one of 'auto', 'on', 'off'."),
        ("--budgets macs=50%", "No such option '--budgets'"),
    ],
)
def test_options_that_make_no_sense(place: Path, option: str, expected: str) -> None:
    assert_refused(place, f"build model.keras --data digits.npz {option}", expected)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", "No command was given, such as: edgeprune build model.keras"),
        ("biuld model.keras", "No such command 'biuld'."),
        ("build", "Missing argument 'MODEL'."),
        ("build model.keras", "Missing option '--data'."),
        ("prune model.keras --data digits.npz --out slim.h5", "must be a file that ends in .keras"),
        ("prune model.keras --data digits.npz --criterion l3", "Unknown criterion 'l3'."),
        ("convert model.keras", "give --data, or take --quantize dynamic"),
        ("convert model.keras --quantize int4", "Unknown scheme 'int4'."),
        (
            "convert model.keras --data digits.npz --out empty",
            "must be a file that ends in .tflite",
        ),
        ("convert model.keras --quantize float32 --labels labels.txt", "2 labels do not fit model"),
        ("bench absent.tflite", "Cannot read 'absent.tflite': No such file or directory."),
        ("bench model.keras", "'model.keras' is not a TensorFlow Lite model"),
        ("bench network.tflite network.tflite", "'network.tflite' is given twice."),
        ("bench network.tflite --seconds 0", "seconds must be positive"),
        ("demo --out notes.txt", "The output 'notes.txt' is a file; expected a folder"),
    ],
)
def test_commands_that_make_no_sense(place: Path, command: str, expected: str) -> None:
    assert_refused(place, command, expected)


def test_a_folder_is_never_taken_for_the_file_to_write(place: Path) -> None:
    """Replacing it would delete what is in it."""
    folder = place / "precious.tflite"
    folder.mkdir()
    (folder / "photo.jpg").write_text("the only copy")
    try:
        command = "convert model.keras --quantize float32 --out precious.tflite"
        assert_refused(place, command, "The output 'precious.tflite' is a folder")
    finally:
        (folder / "photo.jpg").unlink()
        folder.rmdir()


def test_an_output_without_permission_is_refused_before_work_starts(
    place: Path, monkeypatch
) -> None:
    """Tests may run as root, who may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    command = "build model.keras --data digits.npz --out out"
    assert_refused(place, command, f"Cannot write to 'out': no permission to write in '{place}'.")


@contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """Let the system refuse to write more, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kilobytes", [1, 8, 40])
def test_a_full_disk_leaves_the_earlier_build_as_it_was(
    place: Path, tmp_path: Path, kilobytes: int
) -> None:
    """The first limits stop a trial conversion in the temporary folder, the last one a file."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.tflite").write_text("earlier")
    command = f"build model.keras --data digits.npz --classes 1,2 {QUICK} --out {out}"
    with files_limited_to(1024 * kilobytes):
        answer = run_command(*command.split())
    assert answer.code == 2, answer
    assert answer.error.startswith(
        (
            "Error: TensorFlow could not write the model to the folder",
            f"Error: Cannot write '{out}': File too large. Nothing was left half-written.",
        )
    )
    assert everything(tmp_path) == {str(out): None, str(out / "model.tflite"): b"earlier"}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "prune model.keras --data digits.npz --recovery none --effort fast --out small.keras",
            "Cannot write 'small.keras': File too large. Nothing was left half-written.",
        ),
        (
            "convert model.keras --quantize float32 --out small.tflite",
            "TensorFlow could not write the model to the folder for temporary files",
        ),
    ],
)
def test_a_full_disk_leaves_no_part_of_a_file(place: Path, command: str, expected: str) -> None:
    with files_limited_to(6 * 1024):
        assert_refused(place, command, expected)


def test_a_wrong_rule_stops_the_build(place: Path, tmp_path: Path, monkeypatch) -> None:
    """The proof that slim == cut can fail, and that nothing comes out then."""
    monkeypatch.setitem(RULES, layers.Conv2D, make_wrong_rule(RULES[layers.Conv2D]))
    command = f"build model.keras --data digits.npz --classes 1,2 {QUICK} --out {tmp_path}/out"
    assert_refused(
        tmp_path, command, "The pruned model is not equal to the original with the same channels",
        "A channel rule of one of its layers is wrong; nothing was written.",
    )  # fmt: skip


def test_a_mistake_of_ours_is_not_dressed_up(place: Path, monkeypatch) -> None:
    """Whoever reports it needs the traceback."""

    def fail(*arguments, **settings):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("edgeprune.boards.list_targets", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_command("targets")


def test_an_error_in_the_users_own_function_keeps_its_traceback(place: Path) -> None:
    (place / "scaling.py").write_text("def scale(batch):\n    return batch / nothing\n")
    try:
        with pytest.raises(NameError, match="nothing"):
            run_command(*"build model.keras --data digits.npz --preprocess scaling:scale".split())
    finally:
        (place / "scaling.py").unlink()


def test_every_kind_of_error_is_one_line_and_exit_code_2() -> None:
    from edgeprune.cli.failures import explain

    kinds = [EdgepruneError, *EdgepruneError.__subclasses__()]
    assert len(kinds) > 6
    for kind in kinds:
        assert explain(kind("What went wrong.")) == (2, "Error: What went wrong.")
    assert explain(MemoryError())[0] == 2
    assert explain(EdgepruneError(f"Layer '{'9' * 5000}' is unknown."))[1].endswith(
        "999... is unknown."
    )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("prune model.keras --data digits.npz --out model.keras", "is an input ('model.keras')"),
        ("build model.keras --data digits.npz --out .", "is the folder of an input"),
        ("build model.keras --data pets --out pets", "is an input ('pets')"),
        ("convert model.keras --data digits.npz --out linked.tflite", "is an input ("),
        ("sensitivity model.keras --data digits.npz --out digits.npz", "is an input ("),
    ],
)
def test_what_is_read_is_never_written_to(place: Path, command: str, expected: str) -> None:
    link = place / "linked.tflite"
    if not link.is_symlink():
        link.symlink_to(place / "model.keras")
    before = {name: (place / name).read_bytes() for name in ("model.keras", "digits.npz")}
    answer = run_command(*command.split())
    assert answer.code == 2
    assert expected in answer.error
    assert all((place / name).read_bytes() == content for name, content in before.items())


@pytest.mark.parametrize("code", ["exit(0)", "def scale(batch):\n    exit(0)"])
def test_an_exit_in_the_users_own_function_is_no_success(
    place: Path, code: str, monkeypatch
) -> None:
    name = f"leaving{len(code)}"
    (place / f"{name}.py").write_text(f"from sys import exit\n{code}\n")
    answer = run_command(
        *f"build model.keras --data digits.npz --preprocess {name}:scale --out away".split()
    )
    assert answer.code == 2
    assert "ended the program (exit code 0) instead of returning." in answer.error


def test_labels_from_a_device_or_a_pipe_are_refused(place: Path) -> None:
    if not (place / "pipe.txt").exists():
        os.mkfifo(place / "pipe.txt")
    for path in ("/dev/zero", "pipe.txt"):
        answer = run_command("build", "model.keras", "--data", "pets", "--labels", path)
        assert answer.code == 2
        assert "it is no file but a folder, a pipe or a device" in answer.error


@pytest.mark.parametrize(
    "command",
    [
        "check {} --target coral-usb", "bench {}", "inspect {}", "convert {} --quantize dynamic",
        "convert model.keras --data {}",
        "inspect model.keras --weights {}",
    ],
)  # fmt: skip
def test_what_never_ends_is_not_read(place: Path, command: str) -> None:
    for name in ("pipe.tflite", "pipe.npz"):
        if not (place / name).exists():
            os.mkfifo(place / name)
        for path in (name, "/dev/zero"):
            answer = run_command(*command.format(path).split())
            assert answer.code == 2, answer
            assert re.search(
                "no file but a folder, a pipe or|neither a folder|not a Ten", answer.error
            )
