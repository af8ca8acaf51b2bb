"""One image file to one array, as Keras' own image loading would colour it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from edgeprune.errors import DataError
from edgeprune.support.files import check_regular

# The content decides, not the suffix: photos from the web are often misnamed. Only these decoders
# are given the file (JPEG's includes MPO, which phones write).
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def check_image(path: str | os.PathLike[str]) -> None:
    """Look at the header and, for PNG, the checksums, without decoding the image.

    Raises:
        DataError: the file is not an image, or is visibly damaged.
    """
    try:
        with _open(path) as image:
            image.verify()
    except Exception as error:  # on damaged files the decoders raise almost anything
        raise _unreadable(path, error) from error


def read_image(
    path: str | os.PathLike[str], height: int | None, width: int | None, channels: int
) -> np.ndarray:
    """Read an image, turned upright, in the model's colours and size.

    The camera's orientation (EXIF) is applied. Colour becomes grey by luma (ITU-R 601); 16-bit
    values keep their high byte; transparency is dropped when the model has no channel for it, as
    Keras does. Resizing is bilinear and changes the aspect ratio; Pillow averages over the covered
    area when it shrinks (antialias), which TensorFlow's default resize does not.

    Args:
        path: PNG, JPEG, BMP, WebP or GIF (first frame), whatever the suffix says.
        height: in pixels; None keeps the image's own.
        width: in pixels; None keeps the image's own.
        channels: 1 (grey), 2 (grey, alpha), 3 (red, green, blue) or 4 (with alpha).

    Returns:
        uint8 array (height, width, channels).

    Raises:
        DataError: the file cannot be read as an image, named in the message.
    """
    try:
        from PIL import Image, ImageOps

        with _open(path) as opened:
            image = _convert(ImageOps.exif_transpose(opened), MODES[channels])
            size = (width or image.width, height or image.height)
            if image.size != size:
                image = image.resize(size, Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
    except Exception as error:  # on damaged files the decoders raise almost anything
        raise _unreadable(path, error) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _open(path: str | os.PathLike[str]) -> Any:
    from PIL import Image

    check_regular(path, ValueError)
    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
        image.close()
        raise ValueError(
            f"it has {image.width}x{image.height} pixels, at most {Image.MAX_IMAGE_PIXELS:,} "
            "are read"
        )
    return image


def _convert(image: Any, mode: str) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits per pixel: convert() would clip everything above 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode == "P":  # a palette may hold transparency, which a direct conversion misreads
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _unreadable(path: str | os.PathLike[str], error: Exception) -> DataError:
    if isinstance(error, ModuleNotFoundError):
        return DataError("Reading images needs Pillow: pip install 'edgeprune[tensorflow]'.")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if type(error).__name__ == "UnidentifiedImageError":
        reason = "it is empty, damaged, or no PNG, JPEG, BMP, WebP or GIF"
    return DataError(
        f"Cannot read the image '{os.fspath(path)}': {reason or type(error).__name__}. "
        "Replace the file or remove it."
    )
