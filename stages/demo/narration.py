"""Sentences spoken by many voices, as if in many rooms."""

import numpy as np

from datamodules.preparation.speech import SAMPLING_RATE, Speaker, Utterance


def narrate(text: str, voice: str, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Return waveform (samples,), float32, 16 kHz: the text at some speed and pitch, as dry as espeak-ng gives it."""
    utterance = Utterance(
        text, voice=voice, rate_wpm=int(rng.integers(135, 205)), pitch=int(rng.integers(25, 76))
    )
    waveform = speaker.say(utterance).waveform
    return waveform / np.abs(waveform).max()


def record(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the waveform as a microphone might have taken it: some silence around, room, noise and gain."""
    silences = rng.integers(0, int(0.12 * SAMPLING_RATE), 2)
    waveform = np.pad(waveform, silences)
    if rng.random() < 0.4:
        waveform = reverberate(waveform, rng)
    noise = rng.normal(0, waveform.std() * 10 ** rng.uniform(-2.2, -1), len(waveform))  # 20 to 44 dB below
    waveform = waveform + noise
    return (waveform / np.abs(waveform).max() * rng.uniform(0.2, 0.95)).astype(np.float32)


def reverberate(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a room's echo: noise that dies away within 50 to 200 ms, 8 to 20 dB below the voice."""
    from scipy.signal import fftconvolve

    time_s = np.arange(int(0.2 * SAMPLING_RATE)) / SAMPLING_RATE
    echo = rng.normal(size=len(time_s)) * np.exp(-6.9 * time_s / rng.uniform(0.05, 0.2))
    echo *= 10 ** rng.uniform(-1, -0.4) / np.linalg.norm(echo)
    return waveform + fftconvolve(waveform, echo)[: len(waveform)]
