"""SpectrogramMasks: which parts of a spectrogram training hides, as shares, drawn before there is one."""

import numpy as np


class SpectrogramMasks:
    """Masks of SpecAugment (arXiv:1904.08779, section 2) without its time warping.

    They are drawn here, from the generator of the sample, and applied by the encoder, on the device: a run that
    goes on draws the same ones, and the spectrogram need not be made in the data's processes. A width is drawn
    from 0 to the largest, then a start from where it fits. The paper's F of 80 bands and T of frames are shares here.

    Args:
        num_time_masks: spans of time.
        max_time_share: longest of them, as a share of the sound.
        num_mel_masks: bands of frequency.
        max_mel_share: widest of them, as a share of all mel bands.

    Raises:
        ValueError: when a number makes no sense.
    """

    def __init__(
        self,
        num_time_masks: int = 2,
        max_time_share: float = 0.05,
        num_mel_masks: int = 2,
        max_mel_share: float = 0.3,
    ) -> None:
        if num_time_masks < 0 or num_mel_masks < 0 or num_time_masks + num_mel_masks == 0:
            raise ValueError(
                f"audio: spec_augment has {num_time_masks} time masks and {num_mel_masks} mel masks: "
                "expected at least one of them"
            )
        if not 0 < max_time_share <= 1 or not 0 < max_mel_share <= 1:
            raise ValueError(
                f"audio: spec_augment has max_time_share {max_time_share}, max_mel_share {max_mel_share}: "
                "expected shares above 0, at most 1"
            )
        self.num_time_masks, self.max_time_share = num_time_masks, max_time_share
        self.num_mel_masks, self.max_mel_share = num_mel_masks, max_mel_share

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return time and mel masks, each (masks, 2): start and end, from 0 to 1."""
        return (
            _spans(rng, self.num_time_masks, self.max_time_share),
            _spans(rng, self.num_mel_masks, self.max_mel_share),
        )


def _spans(rng: np.random.Generator, number: int, most: float) -> np.ndarray:
    widths = rng.uniform(0.0, most, number)
    starts = rng.uniform(0.0, 1.0, number) * (1.0 - widths)
    return np.stack([starts, starts + widths], axis=1)
