"""Folders of images, `class/*.jpg` or `split/class/*.jpg`: read when they are chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.data.arrays import Shape
from edgeprune.data.classes import match_names, shorten
from edgeprune.data.dataset import UNLABELLED, Dataset
from edgeprune.data.images import MODES, check_image, read_image
from edgeprune.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
OTHER_SUFFIXES = (
    ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".dng", ".cr2", ".nef",
)  # fmt: skip
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
LAYOUT = f"class/*{{{','.join(SUFFIXES)}}} or split/class/* with splits train, validation, test"


def load_folder(
    folder: Path, input_shape: Shape, classes: tuple[str, ...] | None, labelled: bool = True
) -> Dataset:
    """List the images of a folder; classes are its sorted class folders, as in Keras."""
    reader_shape = _check_input_shape(folder, input_shape)
    by_split = _find_class_folders(folder)
    own_names = sorted({child.name for folders in by_split.values() for child in folders})
    if len(own_names) < 2 and not labelled:
        by_split, classes, own_names = {"all": [folder]}, UNLABELLED, [*UNLABELLED]
    if len(own_names) < 2 and labelled:
        raise DataError(_explain_single_class(folder, by_split))
    position = dict(zip(own_names, match_names(own_names, classes, str(folder)), strict=True))
    paths: list[str] = []
    targets: list[int] = []
    splits: dict[str, np.ndarray] = {}
    for split, class_folders in by_split.items():
        start = len(paths)
        for class_folder in class_folders:
            found = _list_images(class_folder)
            paths += found
            targets += [position.get(class_folder.name, 0)] * len(found)
        splits[split] = np.arange(start, len(paths))
    if not paths:
        raise DataError(f"'{folder}' holds no images. Expected {LAYOUT}.")
    reader = _ImageReader(str(folder), paths, reader_shape)
    names = classes or tuple(own_names)
    indices = np.asarray(targets, np.int64)
    return Dataset(
        folder.resolve().name,
        names,
        indices,
        splits,
        reader.read,
        reader.check,
        _note_others(by_split),
    )


@dataclass(frozen=True)
class _ImageReader:
    folder: str
    paths: Sequence[str]
    shape: tuple[int | None, int | None, int]

    def check(self, indices: np.ndarray) -> None:
        for index in indices:
            check_image(self.paths[index])

    def read(self, indices: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases Python's lock
            images = list(pool.map(lambda i: read_image(self.paths[i], *self.shape), indices))
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"The images in '{self.folder}' differ in size ('{self.paths[index]}' is "
                    f"{image.shape[1]}x{image.shape[0]}), and the model does not say which one it "
                    "wants. Give it a fixed input size, or resize the images to one size."
                )
        return np.stack(images)


def _check_input_shape(folder: Path, input_shape: Shape) -> tuple[int | None, int | None, int]:
    channels = input_shape[-1] if len(input_shape) == 3 else None
    if channels not in MODES:
        raise DataError(
            f"'{folder}' is a folder of images, but the model reads samples of shape "
            f"{input_shape}. Expected (height, width, channels) with 1 to 4 channels; for anything "
            "else give an .npz file."
        )
    return input_shape[0], input_shape[1], int(channels or 0)


def _list_folders(folder: Path) -> list[Path]:
    """Give the visible subfolders; `__MACOSX` is what an unpacked zip from a Mac leaves behind."""
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"Cannot read '{folder}': {error.strerror}.") from error
    return [
        child
        for child in children
        if child.is_dir() and not child.name.startswith(".") and child.name != "__MACOSX"
    ]


def _find_class_folders(folder: Path) -> dict[str, list[Path]]:
    """Tell the two layouts apart: a split folder holds folders, a class folder holds images.

    So a class may be called `train`, as in CIFAR-100.
    """
    children = _list_folders(folder)
    grandchildren = {
        child: _list_folders(child)
        for child in children
        if child.name.casefold() in SPLIT_NAMES and not _list_images(child, recursive=False)
    }
    split_folders = {child: inside for child, inside in grandchildren.items() if inside}
    if not split_folders:
        return {"all": children}
    others = [child.name for child in children if child not in split_folders]
    if others:
        raise DataError(
            f"'{folder}' mixes split folders ({shorten([c.name for c in split_folders])}) with "
            f"others ({shorten(others)}). Expected {LAYOUT}."
        )
    by_split: dict[str, list[Path]] = {}
    for child, inside in split_folders.items():
        by_split.setdefault(SPLIT_NAMES[child.name.casefold()], []).extend(inside)
    return by_split


def _note_others(by_split: dict[str, list[Path]]) -> tuple[str, ...]:
    """Say how many images of kinds that are not read lie among the others."""
    folders = [folder for inside in by_split.values() for folder in inside]
    others = [path for each in folders for path in _list_images(each, suffixes=OTHER_SUFFIXES)]
    if not others:
        return ()
    kinds = ", ".join(sorted({Path(path).suffix.lower() for path in others}))
    return (
        f"{len(others)} files ({kinds}), such as '{others[0]}', were left out: convert them to "
        ".png or .jpg to use them.",
    )


def _list_images(
    folder: Path, recursive: bool = True, suffixes: tuple[str, ...] = SUFFIXES
) -> list[str]:
    """List the images in and below a class folder, sorted; hidden files are no photos."""

    def refuse(error: OSError) -> None:
        raise DataError(f"Cannot read '{error.filename}': {error.strerror}.") from error

    found: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        found += [
            os.path.join(parent, name)
            for name in files
            if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
        if not recursive:
            folders.clear()
    return sorted(found)


def _explain_single_class(folder: Path, by_split: dict[str, list[Path]]) -> str:
    folders = [child for children in by_split.values() for child in children]
    if not folders:
        what = "images but no class folders" if _list_images(folder) else "no images"
        return f"'{folder}' holds {what}. Expected {LAYOUT}."
    hint = f" Did you mean '{folders[0]}'?" if len(_list_folders(folders[0])) > 1 else ""
    return (
        f"'{folder}' holds one class folder only, '{folders[0].name}'; at least two are needed to "
        f"tell classes apart.{hint} Expected {LAYOUT}."
    )
