"""A picture and a piece of sound from the middle of a long video, found by seeking instead of decoding up to it."""

from pathlib import Path

import numpy as np

from datamodules.preparation.video.reading import SAMPLING_RATE, VideoError, jpeg, opened

SEEK_UNITS_PER_S = 1_000_000
MARGIN_S = 0.25
"""Sound is decoded from this much earlier: a codec needs a few packets until what it says is right."""


def read_frame_at(path: Path, time_s: float, max_pixels: int) -> bytes:
    """Return the picture shown at `time_s` as JPEG.

    Raises:
        VideoError: it cannot be decoded, has no picture then, or one with more than `max_pixels`.
    """
    shown, is_recent = None, False
    with opened(path, "pictures") as container:
        container.seek(int(time_s * SEEK_UNITS_PER_S))  # to the last key frame before it
        for frame in container.decode(video=0):
            if frame.width * frame.height > max_pixels:
                raise VideoError(
                    f"{path} is {frame.width} x {frame.height}; expected at most {max_pixels} pixels."
                )
            if frame.time is not None and frame.time > time_s and shown is not None:
                return jpeg(shown)
            is_recent = frame.time is not None and frame.time + 1 >= time_s
            shown = frame
    if shown is None or not is_recent:
        raise VideoError(f"{path} has no picture at {time_s:.2f} s; is it whole?")
    return jpeg(shown)


def read_sound_between(path: Path, start_s: float, end_s: float) -> np.ndarray:
    """Return the sound from `start_s` to `end_s` as waveform (samples,), float32, 16 kHz, mono; shorter at the ends.

    Raises:
        NoTrackError: it has no sound.
        VideoError: the sound cannot be decoded there.
    """
    import av

    start_s, pieces, first_s = max(0.0, start_s), [], None
    with opened(path, "sound") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLING_RATE)
        container.seek(int(max(0.0, start_s - MARGIN_S) * SEEK_UNITS_PER_S))
        for frame in container.decode(audio=0):
            time_s = frame.time or 0.0
            if time_s >= end_s:
                break
            if time_s + frame.samples / frame.sample_rate < start_s - MARGIN_S:
                continue
            first_s = time_s if first_s is None else first_s
            pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)] if pieces else []
    if first_s is None:
        raise VideoError(f"{path} has no sound at {start_s:.2f} s; is it whole?")
    sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    before = round((start_s - first_s) * SAMPLING_RATE)
    piece = np.concatenate([np.zeros(max(0, -before), np.float32), sound])[max(0, before) :]
    piece = piece[: round((end_s - start_s) * SAMPLING_RATE)]
    if not np.isfinite(piece).all():
        raise VideoError(f"{path} has sound that is not finite at {start_s:.2f} s.")
    return piece
