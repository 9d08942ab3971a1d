"""How loud a sound is over time, in few numbers: what the report draws the cues of a clip over."""

from typing import Any

import numpy as np

from datamodules.preparation.alignment.features import SAMPLING_RATE

NUM_POINTS = 600


def loudness_curve(sound: np.ndarray) -> dict[str, Any]:
    """Return how loud sound (samples,), 16 kHz, is: `seconds`, and over them `curve`, at most 600 of 0 to 99."""
    size = max(1, -(-len(sound) // NUM_POINTS))
    power = np.array(
        [np.mean(np.square(sound[first : first + size])) for first in range(0, len(sound), size)]
    )
    level_db = 10 * np.log10(power + 1e-10)
    low, high = np.quantile(level_db, (0.02, 1.0)) if len(level_db) else (0.0, 1.0)
    curve = 99 * np.clip((level_db - low) / max(float(high - low), 1e-3), 0, 1)
    return {"seconds": round(len(sound) / SAMPLING_RATE, 3), "curve": np.rint(curve).astype(int).tolist()}
