"""Reading encoded pictures: the content decides the format, and no header is believed before it is affordable."""

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np

from datamodules.modalities.bad_sample import BadSample

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow may open; JPEG is read by libjpeg-turbo. Pillow knows formats that start other programs."""

HEADER_FORMATS = ("JPEG", *FORMATS)
"""What Pillow may open to read a header, or for a person to look at."""

MAX_JPEG_SCANS = 100
"""Progressive files have about ten; each costs a pass over the picture, however few bytes it takes."""

WHOLE_SHARE = 0.6
"""Of `max_pixels` for formats other than JPEG: they are decoded whole, by Pillow in up to 16 bytes a pixel."""

PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
"""Markers of JPEG frames that come in any number of scans."""

ORIENTATION_TAG = 0x0112


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
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _read_jpeg(data, min_height, min_width, max_pixels, max_aspect)
        return _read_other(data, min_height, min_width, max_pixels, max_aspect)
    except BadSample:
        raise
    except Exception as error:  # decoders raise many kinds; each means that these bytes are no picture
        raise BadSample("undecodable_image", f"{type(error).__name__}: {error}") from error


def check_size(width: int, height: int, max_pixels: int, max_aspect: float) -> None:
    """Refuse what would cost too much.

    Raises:
        BadSample: `image_too_large` or `image_aspect`.
    """
    if width * height > max_pixels:
        raise BadSample("image_too_large", f"{width} x {height}, at most {max_pixels} pixels")
    if max(width, height) > max_aspect * min(width, height):
        raise BadSample("image_aspect", f"{width} x {height}, sides at most 1 to {max_aspect:g}")


def _read_jpeg(
    data: bytes, min_height: int, min_width: int, max_pixels: int, max_aspect: float
) -> np.ndarray:
    import simplejpeg

    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    check_size(width, height, max_pixels, max_aspect)
    orientation, is_progressive = _jpeg_facts(data)
    if is_progressive and (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise BadSample("undecodable_image", f"{scans} scans, at most {MAX_JPEG_SCANS}")
    if orientation >= 5:  # it lies on its side
        min_height, min_width = min_width, min_height
    # Strict: what libjpeg only warns of is damage. Factors below 2 would take longer than the whole picture.
    pixels = simplejpeg.decode_jpeg(
        data, "RGB", min_height=min_height, min_width=min_width, min_factor=2, strict=True
    )
    return _upright(pixels, orientation)


def _read_other(
    data: bytes, min_height: int, min_width: int, max_pixels: int, max_aspect: float
) -> np.ndarray:
    import PIL
    from PIL import Image as Pillow

    max_pixels = round(WHOLE_SHARE * max_pixels)
    if data.startswith(b"\x89PNG"):
        _check_png(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture: PillowImage = Pillow.open(io.BytesIO(data), formats=FORMATS)
        except Pillow.DecompressionBombError as error:
            raise BadSample("image_too_large", str(error)) from error
        except PIL.UnidentifiedImageError as error:
            raise BadSample("undecodable_image", f"neither JPEG nor {', '.join(FORMATS)}") from error
        check_size(*picture.size, max_pixels, max_aspect)
        picture.load()
    check_size(*picture.size, max_pixels, max_aspect)  # a frame may be larger than what the header says
    orientation = _orientation(picture)
    # One name for all: each step lets go of what the one before made.
    picture = _opaque(picture)
    if orientation >= 5:
        min_height, min_width = min_width, min_height
    factor = min(picture.width // min_width, picture.height // min_height)
    if factor >= 2:
        picture = picture.reduce(factor)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return _upright(np.array(picture), orientation)  # a copy, since Pillow's own is read-only


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


def _jpeg_facts(data: bytes) -> tuple[int, bool]:
    """Return the EXIF orientation of a JPEG, 1 where it has none that can be read, and whether it is progressive."""
    orientation, is_progressive, position = 1, False, 2
    while data[position] == 0xFF and data[position + 1] not in (0xD9, 0xDA):
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 4 : end])
        is_progressive |= marker in PROGRESSIVE
        position = end
    return orientation, is_progressive


def _exif_orientation(data: bytes) -> int:
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    try:
        exif.load(data)
        return _known(exif.get(ORIENTATION_TAG))
    except Exception:  # Pillow raises many kinds; the picture is good without its metadata
        return 1


def _orientation(picture: "PillowImage") -> int:
    try:
        return _known(picture.getexif().get(ORIENTATION_TAG))
    except Exception:  # as above
        return 1


def _known(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: mirrored when 2, 4, 5 or 7, then turned."""
    if orientation == 1:
        return pixels
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarter_turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]  # against the clock
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))
