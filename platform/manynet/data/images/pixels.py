"""Decodes and resizes images to uint8 pixels of one shape."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from manynet.data.base import DataError
from manynet.errors import first_line

Pixels = NDArray[np.uint8]

T = TypeVar("T")

LARGEST_DEFAULT_SIDE = 256
CHUNK = 256
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageShape(NamedTuple):
    """Channels (1 grey, 3 RGB), height and width in pixels."""

    channels: int
    height: int
    width: int

    @property
    def bytes(self) -> int:
        """Bytes of one decoded image."""
        return self.channels * self.height * self.width


def probe(file: str | IO[bytes], name: str) -> ImageShape:
    """Read an image's header only: its shape as it is shown, which EXIF may say is turned.

    Raises:
        DataError: if there is no readable image, naming it.
    """
    try:
        with Image.open(file) as image:
            mode, (width, height) = image.mode, _shown(image, image.size)
    except UNREADABLE as error:
        raise unreadable(name, error) from None
    if mode not in GREY_MODES + COLOUR_MODES:
        raise DataError(f"images must have 8 bits a channel, but {name} has mode {mode}")
    return ImageShape(1 if mode in GREY_MODES else 3, height, width)


def decode(file: str | IO[bytes], name: str, shape: ImageShape) -> Pixels:
    """Decode an image to uint8 `(C, H, W)` of `shape`.

    It is turned as its EXIF says. Other sizes are resized to cover it (bilinear, antialiased) and cropped at the centre.

    Raises:
        DataError: if it cannot be read completely, naming it.
    """
    mode = "L" if shape.channels == 1 else "RGB"
    size = (shape.width, shape.height)
    try:
        with Image.open(file) as image:
            # Decodes a JPEG at a half, a quarter or an eighth of its size: several times faster.
            image.draft(mode, _shown(image, size))
            return _fit(ImageOps.exif_transpose(image).convert(mode), shape)
    except UNREADABLE as error:
        raise unreadable(name, error) from None


def _shown(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """A size as stored, turned to how the image is shown, or the other way round: width and height may change places."""
    # A PNG may hold its EXIF at its end: a header's reader would decode it all. Pillow turns a TIFF, and its size, itself.
    known = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    turned = known and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (size[1], size[0]) if turned else size


def unreadable(name: str, error: Exception) -> DataError:
    """Error that names an unreadable image, in one line."""
    return DataError(f"images must be readable, but {name} is not: {first_line(error)}")


def conform(images: Pixels, shape: ImageShape) -> Pixels:
    """Convert an array of images `(N, H, W, C)` to uint8 `(N, C, H, W)` of `shape`, as `decode` does."""
    images = _recolour(images, shape.channels)
    if images.shape[1:3] == (shape.height, shape.width):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    squeezed = images[..., 0] if shape.channels == 1 else images
    return np.stack([_fit(Image.fromarray(image), shape) for image in squeezed])


def choose_shape(native: Sequence[ImageShape], channels: int | None, image_size: int | None) -> ImageShape:
    """Choose the common shape of images.

    Images of one common size stay as they are, unless a side is longer than `image_size`. Others become
    squares of side `image_size`; without it, of the median of their shorter sides, at most 256.

    Args:
        native: shapes of all images or of a sample.
        channels: of the result; None is RGB if any image is in colour, else grey.
        image_size: side in pixels, or None.
    """
    shapes = np.unique(np.array(native, dtype=np.int64), axis=0)
    channels = channels or int(shapes[:, 0].max())
    sizes = np.unique(shapes[:, 1:], axis=0)
    if len(sizes) == 1 and sizes.max() <= (image_size or sizes.max()):
        return ImageShape(channels, int(sizes[0, 0]), int(sizes[0, 1]))
    median = int(np.median([min(shape.height, shape.width) for shape in native]))
    side = image_size or min(median, LARGEST_DEFAULT_SIDE)
    return ImageShape(channels, side, side)


def threaded(function: Callable[[range], T], count: int) -> list[T]:
    """Call `function` on consecutive ranges that cover `count`, in threads (Pillow releases the GIL)."""
    ranges = [range(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as threads:
        return list(threads.map(function, ranges))


def _fit(image: Image.Image, shape: ImageShape) -> Pixels:
    size = (shape.width, shape.height)
    if image.size != size:
        image = ImageOps.fit(image, size, method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _recolour(images: Pixels, channels: int) -> Pixels:
    if images.shape[3] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=3)
    # ITU-R 601 luma in Pillow's fixed point, so that files and arrays give the same grey.
    luma = np.tensordot(images.astype(np.uint32), np.array([19595, 38470, 7471], dtype=np.uint32), axes=1)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]
