"""Encoding what is cut out of media: FLAC, and how H.264 comes to have the same bytes each time."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SAME_BYTES_H264 = {"threads": "1", "mbtree": "0"}
"""Options of libx264. The macroblock tree's vectorised code reads beyond the rows of narrow pictures, so that what it
decides depends on what lay in memory."""


def flac(waveform: "np.ndarray", sampling_rate: int) -> bytes:
    """Return waveform (samples,), in [-1, 1], as 16-bit FLAC."""
    import numpy as np
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), sampling_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
