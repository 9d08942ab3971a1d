"""Reading encoded pictures: the content decides the format, and no header is believed before it is affordable."""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.orientation import jpeg_facts, orientation_of, upright

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow may open; JPEG is read by libjpeg-turbo. Pillow knows formats that start other programs."""

HEADER_FORMATS = ("JPEG", *FORMATS)
"""What Pillow may open to read a header, or to look at."""

MAX_JPEG_SCANS = 100
"""Progressive files have about ten; each costs a pass over the picture, however few bytes it takes."""

WHOLE_SHARE = 0.6
"""Of `max_pixels` for formats other than JPEG: they are decoded whole, by Pillow in up to 16 bytes a pixel."""


def read_picture(
    data: bytes, *, min_height: int, min_width: int, max_pixels: int, max_aspect: float
) -> np.ndarray:
    """Decode a picture to RGB, upright, transparency laid on white, 16 bits scaled to 8, of an animation the first.

    A picture at least twice as large as asked for comes smaller, which is cheaper to decode and to resize.

    Args:
        data: JPEG, PNG, WebP, GIF, BMP or TIFF.
        min_height: pixels that must be left of a higher picture.
        min_width: pixels that must be left of a wider picture.
        max_pixels: larger pictures are bad, and 0.6 of it for formats other than JPEG, which take more memory.
        max_aspect: longer side over shorter; beyond it a picture is bad.

    Returns:
        Pixels (height, width, 3), uint8.

    Raises:
        BadSample: `image_too_large` or `image_aspect` by the header, `undecodable_image` when it is damaged, cut,
            of no known format, or carries metadata that unpack to more than a picture's.
    """
    with _decoding():
        if data[:3] == b"\xff\xd8\xff":
            return _read_jpeg(data, min_height, min_width, max_pixels, max_aspect)
        return _read_other(data, min_height, min_width, max_pixels, max_aspect)


def look_at_picture(
    data: bytes,
    *,
    mode: Literal["L", "RGB"],
    min_side: int | None = None,
    max_pixels: int,
    max_aspect: float = math.inf,
) -> "PillowImage":
    """Decode a picture as `read_picture` does, but forgive damage that a person or a hash would not notice.

    Args:
        data: JPEG, PNG, WebP, GIF, BMP or TIFF.
        mode: grey levels or RGB.
        min_side: pixels that must be left of longer sides, which makes a large JPEG cheaper; all by default.
        max_pixels: larger pictures are bad.
        max_aspect: longer side over shorter; beyond it a picture is bad.

    Raises:
        BadSample: `image_too_large` or `image_aspect` by the header, `undecodable_image` when it is none.
    """
    from PIL import Image as Pillow

    with _decoding(), _quiet():
        picture = _opened(data, HEADER_FORMATS)
        check_size(*picture.size, max_pixels, max_aspect)
        if "progressive" in picture.info:
            _check_scans(data)
        if min_side is not None:
            picture.draft(mode, (min_side, min_side))
        picture.load()
        check_size(*picture.size, max_pixels, max_aspect)  # a frame may be larger than what the header says
        orientation = orientation_of(picture)
        picture = _opaque(picture)
        if orientation != 1:
            picture = Pillow.fromarray(upright(np.array(picture), orientation))
        return picture if picture.mode == mode else picture.convert(mode)


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels, as stored, that a picture's header says.

    Raises:
        BadSample: `undecodable_image` when it is none, `image_too_large` when it claims to be beyond Pillow's bound.
    """
    with _decoding(), _quiet():
        return _opened(data, HEADER_FORMATS).size


def check_size(width: int, height: int, max_pixels: int, max_aspect: float) -> None:
    """Refuse what would cost too much.

    Raises:
        BadSample: `image_too_large` or `image_aspect`.
    """
    if width * height > max_pixels:
        raise BadSample("image_too_large", f"{width} x {height}, at most {max_pixels} pixels")
    if max(width, height) > max_aspect * min(width, height):
        raise BadSample("image_aspect", f"{width} x {height}, sides at most 1 to {max_aspect:g}")


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except BadSample:
        raise
    except Exception as error:  # decoders raise many kinds; each means that these bytes are no picture
        raise BadSample("undecodable_image", f"{type(error).__name__}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow from warning of what is refused here anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(data: bytes, formats: Sequence[str]) -> "PillowImage":
    import PIL
    from PIL import Image as Pillow

    try:
        return Pillow.open(io.BytesIO(data), formats=formats)
    except Pillow.DecompressionBombError as error:
        raise BadSample("image_too_large", str(error)) from error
    except PIL.UnidentifiedImageError as error:
        raise BadSample("undecodable_image", f"neither JPEG nor {', '.join(FORMATS)}") from error


def _check_scans(data: bytes) -> None:
    if (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise BadSample("undecodable_image", f"{scans} scans, at most {MAX_JPEG_SCANS}")


def _read_jpeg(
    data: bytes, min_height: int, min_width: int, max_pixels: int, max_aspect: float
) -> np.ndarray:
    import simplejpeg

    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    check_size(width, height, max_pixels, max_aspect)
    orientation, is_progressive = jpeg_facts(data)
    if is_progressive:
        _check_scans(data)
    if orientation >= 5:  # it lies on its side
        min_height, min_width = min_width, min_height
    # Strict: what libjpeg only warns of is damage. Factors below 2 would take longer than the whole picture.
    pixels = simplejpeg.decode_jpeg(
        data, "RGB", min_height=min_height, min_width=min_width, min_factor=2, strict=True
    )
    return upright(pixels, orientation)


def _read_other(
    data: bytes, min_height: int, min_width: int, max_pixels: int, max_aspect: float
) -> np.ndarray:
    max_pixels = round(WHOLE_SHARE * max_pixels)
    if data.startswith(b"\x89PNG"):
        _check_png(data)
    with _quiet():
        picture = _opened(data, FORMATS)
        check_size(*picture.size, max_pixels, max_aspect)
        picture.load()
    check_size(*picture.size, max_pixels, max_aspect)  # a frame may be larger than what the header says
    orientation = orientation_of(picture)
    # One name for all: each step lets go of what the one before made.
    picture = _opaque(picture)
    if orientation >= 5:
        min_height, min_width = min_width, min_height
    factor = min(picture.width // min_width, picture.height // min_height)
    if factor >= 2:
        picture = picture.reduce(factor)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return upright(np.array(picture), orientation)  # a copy, since Pillow's own is read-only


def _opaque(picture: "PillowImage") -> "PillowImage":
    """Return 8-bit grey or RGB."""
    from PIL import Image as Pillow

    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        if picture.mode != "RGBA":
            picture = picture.convert("RGBA")
        ground = Pillow.new("RGB", picture.size, "white")
        ground.paste(picture, mask=picture)
        return ground
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _eight_bits(picture: "PillowImage") -> "PillowImage":
    from PIL import Image as Pillow

    values = np.array(picture, dtype=np.float32)
    full = 65535.0
    if picture.mode == "F":
        np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)
        full = float(values.max(initial=0.0)) or 1.0
    values *= 255.0 / full
    return Pillow.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def _check_png(data: bytes) -> None:
    """Compare the checksums of all chunks, which Pillow does not do for those that hold the pixels."""
    position = 8
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + size
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise BadSample("undecodable_image", f"damaged PNG chunk at byte {position}")
        if kind == b"IEND":
            return
        position = end + 4
    raise BadSample("undecodable_image", "the PNG is cut")
