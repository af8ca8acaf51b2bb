from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from edgeprune.data import load_dataset, parse_preprocess, read_samples
from edgeprune.errors import ClassError, DataError

RAW = parse_preprocess("raw")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
LAYOUT = (
    "Expected class/*{.png,.jpg,.jpeg,.bmp,.webp,.gif} or split/class/* with splits train, "
    "validation, test."
)


def write(path, colour=RED, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def load(folder, shape=(8, 8, 3), **options):
    return load_dataset(folder, input_shape=shape, **options)


def read_one(folder, image: Image.Image, shape, name="photo.png", **options) -> np.ndarray:
    """Save an image as the only one of class `a`, and read it through the data set."""
    write(folder / "b" / "other.png")
    (folder / "a").mkdir(exist_ok=True)
    image.save(folder / "a" / name, **options)
    return load(folder, shape).read(np.array([0]))[0]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name, colour in (("fox", RED), ("cat", GREEN), ("dog", BLUE)):
        for number in range(3):
            write(folder / name / f"{number}.png", colour)
    return folder


def test_class_folders_are_sorted_as_in_keras(photos):
    dataset = load(str(photos))
    assert dataset.name == "photos"
    assert dataset.classes == ("cat", "dog", "fox")
    assert dataset.splits.keys() == {"all"}
    colours = {0: GREEN, 1: BLUE, 2: RED}
    for index in dataset.splits["all"]:
        image = dataset.read(np.array([index]))[0]
        assert image.dtype == np.uint8
        assert (image == colours[dataset.targets[index]]).all()


def test_given_classes_set_the_order_and_may_be_more(photos):
    names = ["fox", "emu", "dog", "cat"]
    dataset = load(photos, classes=names)
    assert dataset.classes == tuple(names)
    for index, target in enumerate(dataset.targets):
        expected = {"fox": RED, "dog": BLUE, "cat": GREEN}[names[target]]
        assert (dataset.read(np.array([index])) == expected).all()


def test_a_folder_that_is_not_among_the_given_classes_gets_a_suggestion(photos):
    with pytest.raises(ClassError) as error:
        load(photos, classes=["cat", "doggy", "fox"])
    assert str(error.value) == (
        f"'{photos}' has the class 'dog', which is not among the given class names. "
        "Did you mean 'doggy'? Given: cat, doggy, fox."
    )


@pytest.mark.parametrize(
    "split_of",
    [
        {"train": "train", "val": "validation", "test": "test"},
        {"Training": "train", "valid": "validation", "testing": "test"},
        {"train": "train", "validation": "validation", "eval": "test"},
        {"train": "train", "TEST": "test"},
    ],
)
def test_split_folders_are_recognised(tmp_path, split_of):
    colours = dict(zip(split_of, (RED, GREEN, BLUE), strict=False))
    for name, colour in colours.items():
        for animal in ("cat", "dog"):
            write(tmp_path / name / animal / "1.png", colour)
    dataset = load(tmp_path)
    assert dataset.splits.keys() == set(split_of.values())
    assert dataset.classes == ("cat", "dog")
    for name, split in split_of.items():
        assert (dataset.read(dataset.splits[split]) == colours[name]).all()
        assert sorted(dataset.targets[dataset.splits[split]]) == [0, 1]


def test_a_class_missing_from_a_split_is_still_a_class(tmp_path):
    for place in ("train/cat", "train/dog", "test/cat"):
        write(tmp_path / place / "1.png")
    dataset = load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.targets[dataset.splits["test"]].tolist() == [0]


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("bus", "tram", "train", "train/steam", "train/diesel"):
        write(tmp_path / name / "1.png")
    dataset = load(tmp_path)
    assert dataset.classes == ("bus", "train", "tram")
    assert dataset.splits.keys() == {"all"}


def test_split_folders_beside_other_folders_are_refused(tmp_path):
    for place in ("train/cat", "train/dog", "leftovers/cat"):
        write(tmp_path / place / "1.png")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"'{tmp_path}' mixes split folders (train) with others (leftovers). {LAYOUT}"
    )


def test_what_is_no_photo_is_passed_over(photos):
    write(photos / "cat" / "indoors" / "deep.JPEG")
    write(photos / "cat" / "3.webp")
    write(photos / "cat" / "4.bmp")
    for name in ("cat/notes.txt", "cat/._1.png", "cat/.DS_Store", ".git/x.png", "__MACOSX/x.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_text("not an image")
    dataset = load(photos)
    assert dataset.classes == ("cat", "dog", "fox")
    assert np.bincount(dataset.targets).tolist() == [6, 3, 3]
    assert read_samples(dataset, range(12), RAW).inputs.shape == (12, 8, 8, 3)


def test_nothing_is_opened_before_samples_are_chosen(photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    assert len(load(photos).targets) == 9


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no images. " + LAYOUT),
        (["readme.txt"], "holds no images. " + LAYOUT),
        (["1.png", "2.png"], "holds images but no class folders. " + LAYOUT),
        (["cat/readme.txt", "dog/readme.txt"], "holds no images. " + LAYOUT),
        (
            ["cat/1.png"],
            "holds one class folder only, 'cat'; at least two are needed to tell classes apart. "
            + LAYOUT,
        ),
    ],
    ids=["empty", "other files", "no class folders", "no images", "one class only"],
)
def test_a_folder_without_classes_to_tell_apart_is_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("x")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert str(error.value) == f"'{tmp_path}' {message}"


def test_a_folder_around_the_right_one_gets_a_suggestion(photos):
    with pytest.raises(DataError, match=re.escape(f"Did you mean '{photos}'?")):
        load(photos.parent)


@pytest.mark.parametrize("shape", [(8, 8), (64,), (8, 8, 5), (8, 8, None), ()])
def test_a_model_that_reads_no_images_is_refused(photos, shape):
    with pytest.raises(DataError) as error:
        load(photos, shape)
    assert f"is a folder of images, but the model reads samples of shape {shape}" in str(
        error.value
    )


DAMAGE = {
    "empty": (lambda data: b"", "it is empty, damaged, or no PNG, JPEG, BMP, WebP or GIF"),
    "text": (lambda data: b"hello", "it is empty, damaged, or no PNG, JPEG, BMP, WebP or GIF"),
    "cut": (lambda data: data[: len(data) // 2], ""),  # each decoder has its own words for it
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_corrupt_image_is_named(photos, damage, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = photos / "cat" / f"broken.{suffix}"
    Image.fromarray(noise).save(path)
    change, reason = DAMAGE[damage]
    path.write_bytes(change(path.read_bytes()))
    dataset = load(photos)
    with pytest.raises(DataError) as error:
        read_samples(dataset, range(10), RAW)
    assert str(error.value).startswith(f"Cannot read the image '{path}': ")
    assert str(error.value).endswith(". Replace the file or remove it.")
    assert "\n" not in str(error.value)
    assert reason in str(error.value)
    others = [index for index in range(10) if index != 3]
    assert len(read_samples(dataset, others, RAW).inputs) == 9


@pytest.mark.parametrize("position", [0, 20, -20])
def test_visible_damage_is_found_before_anything_is_decoded(photos, monkeypatch, position):
    path = photos / "fox" / "2.png"
    data = bytearray(path.read_bytes())
    data[position] ^= 1  # in the signature, the header, the compressed pixels
    path.write_bytes(data)
    monkeypatch.setattr("edgeprune.data.folders.read_image", None)
    with pytest.raises(DataError, match=r"Cannot read the image '.*fox/2\.png'"):
        read_samples(load(photos), range(9), RAW)


def test_images_without_pillow_say_what_to_install(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError) as error:
        load(photos).read(np.array([0]))
    assert str(error.value) == ("Reading images needs Pillow: pip install 'edgeprune[tensorflow]'.")


def test_a_photo_that_vanished_is_named(photos):
    dataset = load(photos)
    (photos / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"cat/0\.png': No such file or directory\."):
        dataset.read(np.array([0]))


def test_images_are_stretched_to_the_input_of_the_model(tmp_path):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 30:] = BLUE
    pixels = read_one(tmp_path, Image.fromarray(image), (10, 10, 3))
    assert pixels.shape == (10, 10, 3)
    assert (pixels[:, :4] == 0).all()
    assert (pixels[:, 6:] == BLUE).all()


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    pixels = read_one(tmp_path, Image.fromarray(stripes), (8, 8, 1))
    assert abs(pixels[1:-1, 1:-1].astype(int) - 100).max() <= 2


def test_a_free_size_keeps_the_size_of_the_images(photos):
    assert load(photos, (None, None, 3)).read(np.arange(9)).shape == (9, 8, 8, 3)
    assert load(photos, (None, 5, 3)).read(np.arange(9)).shape == (9, 8, 5, 3)
    write(photos / "dog" / "wide.png", size=(9, 8))
    with pytest.raises(DataError, match=r"differ in size \('.*wide\.png' is 9x8\)"):
        load(photos, (None, None, 3)).read(np.arange(10))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_kind_of_image_is_converted_to_the_channels_of_the_model(tmp_path, channels):
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    rgb = colour[..., :3].astype(float)
    luma = rgb @ [0.299, 0.587, 0.114]
    grey = colour[..., 0]
    shape = (8, 8, channels)

    def expect(pixels, red, green, blue, y, alpha):
        wanted = {1: [y], 2: [y, alpha], 3: [red, green, blue], 4: [red, green, blue, alpha]}
        expected = np.stack(np.broadcast_arrays(*wanted[channels]), axis=-1).reshape(-1, channels)
        assert pixels.shape == shape
        assert abs(pixels.reshape(-1, channels).astype(float) - expected).max() <= 1

    flat = [plane.ravel() for plane in np.moveaxis(colour, -1, 0)]
    expect(
        read_one(tmp_path, Image.fromarray(colour[..., :3]), shape), *flat[:3], luma.ravel(), 255
    )
    expect(read_one(tmp_path, Image.fromarray(colour), shape), *flat[:3], luma.ravel(), flat[3])
    expect(read_one(tmp_path, Image.fromarray(grey), shape), *[flat[0]] * 4, 255)
    expect(read_one(tmp_path, Image.fromarray(colour[..., [0, 3]]), shape), *[flat[0]] * 4, flat[3])
    deep = colour[..., 0].astype(np.uint16) * 256 + colour[..., 1]
    expect(read_one(tmp_path, Image.fromarray(deep), shape), *[flat[0]] * 4, 255)
    bits = (grey > 127).ravel() * 255
    expect(read_one(tmp_path, Image.fromarray(grey > 127), shape), *[bits] * 4, 255)

    palette = Image.fromarray(grey % 3)
    palette.putpalette([*RED, *GREEN, *BLUE])
    reds, greens, blues = (255.0 * (flat[0] % 3 == number) for number in range(3))
    y = 0.299 * reds + 0.587 * greens + 0.114 * blues
    expect(read_one(tmp_path, palette, shape), reds, greens, blues, y, 255)
    alpha = np.array([0, 128, 255])[flat[0] % 3]
    pixels = read_one(tmp_path, palette, shape, transparency=bytes([0, 128, 255]))
    expect(pixels, reds, greens, blues, y, alpha)


def test_the_orientation_of_the_camera_is_applied(tmp_path):
    upright = np.zeros((16, 8, 3), np.uint8)
    upright[:8] = RED
    sideways = Image.fromarray(np.rot90(upright))  # what a turned sensor stores
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    pixels = read_one(tmp_path, sideways, (16, 8, 3), exif=exif)
    np.testing.assert_array_equal(pixels, upright)


def test_the_content_decides_not_the_suffix(tmp_path):
    gif = Image.new("RGB", (8, 8), BLUE)
    pixels = read_one(tmp_path, gif, (8, 8, 3), name="photo.jpg", format="GIF")
    assert (pixels == BLUE).all()


def test_a_tiff_under_another_name_is_not_opened(tmp_path):
    with pytest.raises(DataError, match="or no PNG, JPEG, BMP, WebP or GIF"):
        read_one(tmp_path, Image.new("RGB", (8, 8)), (8, 8, 3), name="photo.png", format="TIFF")


def test_a_path_with_quotes_and_accents_survives(tmp_path):
    folder = tmp_path / "l'été"
    write(folder / "ça" / "1.png")
    write(folder / "là" / "1.png")
    (folder / "là" / "2.png").write_bytes(b"")
    dataset = load(folder)
    assert dataset.classes == ("là", "ça")[:: 1 if "là" < "ça" else -1]
    with pytest.raises(DataError, match="Cannot read the image"):
        dataset.read(np.arange(3))


@pytest.mark.parametrize("where", [".", "one"])
def test_images_without_classes_serve_where_classes_do_not_matter(tmp_path, where):
    for name in ("a.png", "b.png"):
        write(tmp_path / where / name)
    dataset = load(tmp_path, labelled=False)
    assert (dataset.classes, dataset.read(np.arange(2)).shape) == (("unlabelled",), (2, 8, 8, 3))
    with pytest.raises(DataError):
        load(tmp_path)


def test_gif_images_are_read_and_images_of_other_kinds_are_told(photos):
    number = len(load(photos).targets)
    write(photos / "cat" / "moving.gif")
    write(photos / "cat" / "scan.TIFF")
    dataset = load(photos)
    assert len(dataset.targets) == number + 1
    (note,) = dataset.notes
    assert note.startswith("1 files (.tiff), such as") and "were left out" in note


def test_a_decompression_bomb_is_refused_by_its_header(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    write(photos / "cat" / "bomb.png", size=(101, 100))
    dataset = load(photos)
    bomb = [number for number, target in enumerate(dataset.targets) if target == 0]
    with pytest.raises(DataError, match=r"bomb\.png': it has 101x100 pixels, at most 10,000 are"):
        dataset.check(np.array(bomb))


def test_a_pipe_among_the_images_is_never_waited_for(photos):
    os.mkfifo(photos / "cat" / "pipe.png")
    with pytest.raises(DataError, match="it is no file but"):
        dataset = load(photos)
        dataset.check(np.arange(len(dataset.targets)))
