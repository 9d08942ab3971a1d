"""Encoding a video frame by frame, but only the frames that differ from what was encoded before."""

from collections.abc import Callable, Iterator

import numpy as np

SIDE = 32
"""Frames are compared at most so many pixels wide and high, in grey."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def encode_frames(
    frames: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], threshold: float = 0.0
) -> tuple[np.ndarray, int]:
    """Return the features of every frame, and how many frames took those of an earlier one.

    Each frame is compared with the last one that was encoded, not with the one before it: a slow fade adds up, and is
    encoded again once it has gone far enough.

    Args:
        frames: (frames, height, width, 3), uint8.
        encode: frames (some, height, width, 3) to features (some, tokens, dim); called once, not at all for no frames.
        threshold: mean absolute difference of grey levels, 0 to 255, up to which a frame counts as unchanged; 0 takes
            only frames that are equal in every pixel, so that the features are exactly those of encoding all.

    Returns:
        features (frames, tokens, dim), and the hits.

    Raises:
        ValueError: the threshold is negative, or there is no frame.
    """
    if threshold < 0:
        raise ValueError(f"threshold is {threshold} grey levels, expected 0 or more")
    if not len(frames):
        raise ValueError("found no frame to encode, expected at least one")
    taken_from = list(sources(frames, threshold))
    changed = sorted(set(taken_from))
    features = encode(frames[changed])
    return features[np.searchsorted(changed, taken_from)], len(frames) - len(changed)


def sources(frames: np.ndarray, threshold: float) -> Iterator[int]:
    """Yield for each frame the number of the frame whose features it takes: its own where it has changed."""
    last = 0
    small = None if threshold == 0 else small_grey(frames)
    for number in range(len(frames)):
        if small is None:
            is_same = np.array_equal(frames[number], frames[last])
        else:
            is_same = float(np.abs(small[number] - small[last]).mean()) <= threshold
        last = last if is_same else number
        yield last


def small_grey(frames: np.ndarray) -> np.ndarray:
    """Return frames as grey levels (frames, rows, columns), float32, averaged over blocks to at most 32 x 32."""
    _, height, width, _ = frames.shape
    rows, columns = (np.linspace(0, size, min(SIDE, size) + 1, dtype=int) for size in (height, width))
    found = np.empty((len(frames), len(rows) - 1, len(columns) - 1), dtype=np.float32)
    areas = np.outer(np.diff(rows), np.diff(columns))
    for number, frame in enumerate(frames):  # one at a time: a float copy of a video would fill memory
        grey = frame.astype(np.float32) @ LUMA
        found[number] = (
            np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=0), columns[:-1], axis=1) / areas
        )
    return found
