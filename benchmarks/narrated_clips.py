"""Clips whose truth is known: sentences by voices that no reference uses, made worse, with subtitles that drift."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from datamodules.preparation.speech import SAMPLING_RATE, Speaker, Utterance
from datamodules.preparation.subtitles import Cue

VOICES = (
    "en-gb-x-rp+f3",
    "en-us+m5",
    "en-gb-scotland",
    "en-gb-x-rp+f4",
    "en-029+m2",
    "en-us+f2",
    "en-gb-x-gbclan+m7",
)
FRAME_RATES = (Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30))
SENTENCES = (
    "the old bridge over the river",
    "three small boats",
    "nobody had seen the green lamp before",
    "rain in the morning",
    "she closed the window and went to sleep",
    "four men stood in front of the house",
    "perhaps he never wrote that letter",
    "his brother came back from the war in spring",
    "silver coins fell through the floor",
    "we should have asked the driver first",
    "every night the same dog barks at the same tree",
    "yes, I know",
    "what do you mean by that?",
    "let us begin with the second question",
    "a hundred people were waiting outside the station",
    "if it snows tomorrow the school will stay closed",
    "thank you very much",
    "put the book back on the shelf, please",
    "the judge looked at her for a long time",
    "just one more thing before you leave",
    "honestly, nothing of the kind ever happened here",
    "old friends are the best friends",
    "where is the key to the garden door?",
    "the train was late again",
)
COLOURS = ("red", "green", "blue", "white", "purple", "yellow", "grey")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Condition:
    """What is done to the sound."""

    noise_db: float | None = None
    """How far below the speech the noise lies; None is faint noise, 50 dB below; infinite is none at all."""
    is_pink: bool = False
    """Noise that is louder the lower it is, as of a street, instead of white."""
    reverberation_s: float = 0.0
    """How long an echo takes to fall by 60 dB."""


CONDITIONS = {
    "as it is": Condition(),
    "digital silence between": Condition(noise_db=math.inf),
    "noise 20 dB below": Condition(noise_db=20),
    "noise 10 dB below": Condition(noise_db=10),
    "pink noise 10 dB below": Condition(noise_db=10, is_pink=True),
    "reverberation 0.3 s": Condition(reverberation_s=0.3),
    "reverberation 0.3 s, noise 15 dB below": Condition(noise_db=15, reverberation_s=0.3),
}


@dataclass(frozen=True)
class Drift:
    """What is done to the subtitles."""

    rate: float = 1.0
    """Time in the subtitles runs this much faster than in the sound."""
    offset_s: float = 0.0
    jitter_s: float = 0.1
    """The standard deviation of each start and each length."""
    missing: float = 0.1
    """The share of sentences that lack a subtitle."""

    def __call__(self, truth: list[Cue], rng: np.random.Generator) -> list[Cue]:
        """Return the cues at wrong times; none begins before 0, as no file can say so."""
        drifted = []
        for cue in truth:
            start_s = max(0.0, cue.start_s * self.rate + self.offset_s + rng.normal(0, self.jitter_s))
            length_s = (cue.end_s - cue.start_s) * self.rate + rng.normal(0, self.jitter_s)
            drifted.append(Cue(round(start_s, 3), round(start_s + max(0.2, length_s), 3), cue.text))
        return drifted


def random_drift(rng: np.random.Generator) -> Drift:
    """Return a drift: one third mistaken frame rates, the rest a skew of at most 2 %; an offset of at most 3 s."""
    one, other = rng.choice(len(FRAME_RATES), 2, replace=False)
    rate = float(FRAME_RATES[one] / FRAME_RATES[other]) if rng.random() < 1 / 3 else rng.uniform(0.98, 1.02)
    return Drift(rate, rng.uniform(-3, 3))


def sentence(rng: np.random.Generator) -> str:
    """Return one of SENTENCES, or as often one of many that differ in a word or two."""
    if rng.random() < 0.5:
        return str(rng.choice(SENTENCES))
    things = [f"a {rng.choice(COLOURS)} {rng.choice(DIGITS)}" for _ in range(2)]
    return f" {rng.choice(RELATIONS)} ".join(things[: rng.integers(1, 3)])


def narrate(
    num_cues: int, rng: np.random.Generator, speaker: Speaker, pause_s: float = 1.1
) -> tuple[np.ndarray, list[Cue]]:
    """Return sound (samples,), 16 kHz, without noise, in one voice, and what is said when; pauses last 0.25 to 2 s.

    `pause_s` is their mean.
    """
    voice, rate_wpm, pitch = str(rng.choice(VOICES)), int(rng.integers(135, 205)), int(rng.integers(25, 76))
    pieces, cues, clock = [], [], 0
    for index in range(num_cues):
        text = sentence(rng)
        spoken = speaker.say(Utterance(text, voice=voice, rate_wpm=rate_wpm, pitch=pitch)).waveform
        start = clock + round((rng.uniform(0.25, 2 * pause_s - 0.25) + 0.5 * (index == 0)) * SAMPLING_RATE)
        pieces += [
            np.zeros(start - clock, np.float32),
            spoken / np.abs(spoken).max() * np.float32(rng.uniform(0.4, 0.8)),
        ]
        clock = start + len(spoken)
        cues.append(Cue(start / SAMPLING_RATE, clock / SAMPLING_RATE, text))
    return np.concatenate([*pieces, np.zeros(SAMPLING_RATE, np.float32)]), cues


def spoil(sound: np.ndarray, condition: Condition, rng: np.random.Generator) -> np.ndarray:
    """Return sound (samples,), 16 kHz, with echo and noise."""
    level = np.sqrt(np.mean(np.square(sound[np.abs(sound) > 0.01 * np.abs(sound).max()])))
    if condition.reverberation_s:
        sound = reverberated(sound, condition.reverberation_s, rng)
    noise = pink(len(sound), rng) if condition.is_pink else rng.normal(size=len(sound))
    gain = level * 10 ** (-(50 if condition.noise_db is None else condition.noise_db) / 20)
    spoilt = sound + gain * noise
    return (spoilt / max(1.0, np.abs(spoilt).max())).astype(np.float32)


def reverberated(sound: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise that falls by 60 dB in `seconds` as echo, as strong as 0 to 6 dB below the voice."""
    from scipy.signal import oaconvolve

    time_s = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    echo = rng.normal(size=len(time_s)) * np.exp(-np.log(1000) * time_s / seconds)
    echo *= 10 ** rng.uniform(-0.3, 0) / np.linalg.norm(echo)
    return sound + oaconvolve(sound, echo)[: len(sound)]


def pink(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise (samples,) of unit power that falls by 3 dB an octave."""
    spectrum = np.fft.rfft(rng.normal(size=num_samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), num_samples)
    return noise / noise.std()


def make_clip(
    seed: int, condition: Condition, speaker: Speaker, num_cues: int = 12, drift: Drift | None = None
) -> tuple[np.ndarray, list[Cue], list[Cue]]:
    """Return sound (samples,), 16 kHz, the true cues that have a subtitle, and their subtitles."""
    rng = np.random.default_rng(seed)
    sound, truth = narrate(num_cues, rng, speaker)
    drift = drift or random_drift(rng)
    missing = set(rng.choice(len(truth), round(drift.missing * len(truth)), replace=False))
    kept = [cue for index, cue in enumerate(truth) if index not in missing]
    return spoil(sound, condition, rng), kept, drift(kept, rng)
