"""Settings that come with a pretrained model: how its pictures are sized and normalised, how its sound is sampled."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PictureSettings:
    """What a vision model expects of its pictures.

    Args:
        image_size: height and width, pixels; None where nothing says it.
        mean: of each channel over [0, 1].
        std: of each channel over [0, 1].
        is_bgr: blue comes first, as MobileViT has it.
    """

    image_size: int | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    is_bgr: bool = False


def choose_settings(
    known: PictureSettings,
    *,
    image_size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    is_bgr: bool | None = None,
) -> PictureSettings:
    """Return what the user said, and what is known where the user said nothing."""
    return PictureSettings(
        image_size=known.image_size if image_size is None else image_size,
        mean=known.mean if mean is None else tuple(mean),
        std=known.std if std is None else tuple(std),
        is_bgr=known.is_bgr if is_bgr is None else is_bgr,
    )


def picture_settings(name_or_path: str) -> PictureSettings:
    """Read a transformers model's `preprocessor_config.json`.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoImageProcessor

    try:
        found = AutoImageProcessor.from_pretrained(name_or_path).to_dict()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name_or_path} does not say how its pictures are normalised: expected a preprocessor_config.json "
            f"beside the weights; save its image processor there, or give mean and std ({error})"
        ) from error
    is_normalised = found.get("do_normalize", False)
    return PictureSettings(
        image_size=_side(found),
        mean=tuple(found["image_mean"]) if is_normalised else (0.0, 0.0, 0.0),
        std=tuple(found["image_std"]) if is_normalised else (1.0, 1.0, 1.0),
        is_bgr=bool(found.get("do_flip_channel_order", False)),
    )


def sound_settings(name_or_path: str) -> dict[str, Any]:
    """Read the settings of a transformers model's feature extractor, such as `sampling_rate` and `do_normalize`.

    Raises:
        ValueError: there are none.
    """
    from transformers import AutoFeatureExtractor

    try:
        return AutoFeatureExtractor.from_pretrained(name_or_path).to_dict()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name_or_path} does not say what sound it takes: expected a preprocessor_config.json beside the weights; "
            f"save its feature extractor there ({error})"
        ) from error


def _side(found: dict[str, Any]) -> int | None:
    size = found.get("crop_size") if found.get("do_center_crop") else found.get("size")
    if size is None:
        return None
    sides = dict(size)
    return sides.get("height") or sides.get("shortest_edge")
