"""Image: encoded pictures to pixels."""

import io
import warnings

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class Image:
    """Pictures to pixels: shorter side scaled, centre cut. Inputs: `pixels` (rows, 3, height, width) uint8.

    The header is checked before anything is decoded. EXIF orientation is applied, transparency is laid on
    white, 16 bits are scaled to 8, of an animation the first frame is taken.

    Args:
        height: pixels.
        width: pixels.
        max_shift: in training, the picture is moved by up to so many pixels each way.
        max_pixels: larger pictures are bad samples.
        max_aspect: longer side over shorter; beyond it a sample is bad.
    """

    members = ("jpg", "jpeg", "png", "webp")

    def __init__(
        self,
        height: int,
        width: int,
        max_shift: int = 0,
        max_pixels: int = 64_000_000,
        max_aspect: float = 20.0,
    ) -> None:
        self.height, self.width, self.max_shift = height, width, max_shift
        self.max_pixels, self.max_aspect = max_pixels, max_aspect

    def decode(self, data: bytes, member: str) -> np.ndarray:
        """Return pixels (height, width, 3), uint8.

        Raises:
            BadSample: when it is not a picture of a known format, or too large or narrow.
        """
        from PIL import Image as Pillow

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Pillow.open(io.BytesIO(data), formats=FORMATS) as picture:
                    self._check(*picture.size)
                    return self._fit(_to_rgb(picture))
        except BadSample:
            raise
        except Exception as error:  # decoders raise many kinds; each means that these bytes are no picture
            raise BadSample("undecodable_image", f"{type(error).__name__}: {error}") from error

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.max_shift:
            return value
        down, right = rng.integers(-self.max_shift, self.max_shift + 1, 2)
        padded = np.pad(value, ((self.max_shift,) * 2, (self.max_shift,) * 2, (0, 0)), mode="edge")
        top, left = self.max_shift + down, self.max_shift + right
        return padded[top : top + self.height, left : left + self.width]

    def collate(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        if not values:
            return {"pixels": torch.zeros(0, 3, self.height, self.width, dtype=torch.uint8)}
        return {"pixels": torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2).contiguous()}

    def _check(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise BadSample("image_too_large", f"{width} x {height}, at most {self.max_pixels} pixels")
        if max(width, height) > self.max_aspect * min(width, height):
            raise BadSample("image_aspect", f"{width} x {height}, sides at most 1 to {self.max_aspect:g}")

    def _fit(self, picture: "PIL.Image.Image") -> np.ndarray:  # noqa: F821
        if picture.size != (self.width, self.height):
            scale = max(self.width / picture.width, self.height / picture.height)
            size = (
                max(self.width, round(picture.width * scale)),
                max(self.height, round(picture.height * scale)),
            )
            picture = picture.resize(size)
            left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
            picture = picture.crop((left, top, left + self.width, top + self.height))
        return np.asarray(picture)


def _to_rgb(picture: "PIL.Image.Image") -> "PIL.Image.Image":  # noqa: F821
    from PIL import Image as Pillow
    from PIL import ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        full = 65535.0 if picture.mode != "F" else max(1e-12, values.max())
        return Pillow.fromarray(np.clip(values / full * 255, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Pillow.new("RGBA", picture.size, (255, 255, 255, 255))
        return Pillow.alpha_composite(ground, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
