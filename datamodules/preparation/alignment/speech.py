"""Alignment by speaking: espeak-ng says the cues, and what it says is sought in the sound.

Three steps, each finer. (1) Each spoken cue is warped, roughly, onto all of the sound where it may be heard, and the
cues of a minute vote for the line that they lie on. (2) Each cue is warped closely onto the sound near that line, and
of the places found those are taken that fit best, lie near the line, last as long as the narrator needs for others, and
keep the order of the cues. (3) Starts and ends snap to the bounds of pauses.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datamodules.preparation.alignment import features
from datamodules.preparation.alignment.aligner import (
    Aligner,
    Alignment,
    AlignmentError,
    aligned,
    ends,
    require_sound,
    starts,
)
from datamodules.preparation.alignment.edges import Edges
from datamodules.preparation.subtitles import Cue

if TYPE_CHECKING:
    from datamodules.preparation.alignment.hearing import Place

FPS = features.FRAMES_PER_S
NUM_ROUNDS = 3
"""How often places are chosen, each time with a line and a pace that the last choice taught."""
REACH = 5
"""Cues are sought within so many standard deviations of the line."""
KEEP_S = 0.02
"""A cue that is found this near to where it was stays there: the subtitles may well be the more exact."""
VAGUE_S = 0.04
"""How unsure a start or end is that no pause marks."""
LEAST_LENGTH_S = 0.1
MAX_PACE = 1.6


@dataclass
class Speech(Aligner):
    """Find cues in the sound by speaking them: for any narrator, in a language that espeak-ng speaks."""

    voice: str = "en-us"
    """The language that the cues are spoken in, a voice of espeak-ng such as `de` or `fr`."""
    max_offset_s: float = 4.0
    """How far subtitles may be from the sound at first."""
    max_skew: float = 0.08
    """How much faster or slower subtitles may run; mistaken frame rates are tried in any case."""
    jitter_s: float = 0.15
    """How far each start may be from where the line has it: a standard deviation."""
    stretch_s: float = 60.0
    """How much of the subtitles votes together."""
    max_residual_ms: float = 300.0
    """Subtitles whose starts lie further than this from a straight line, in the median, are refused."""
    max_mismatch: float = 0.72
    """Subtitles are refused when the cues fit what is heard hardly better than backwards speech, which is 1. Chosen
    where 380 right subtitles had at most 0.65 and 380 of other clips at least 0.79, in noise and echo and without."""

    def __call__(self, sound: np.ndarray, cues: list[Cue]) -> Alignment:
        """Return where in the sound each cue is heard.

        Raises:
            AlignmentError: the cues are not what is heard, or the sound is too short for them.
            SpeechError: espeak-ng does not speak the language.
        """
        from datamodules.preparation.alignment.hearing import choose, hear, mismatch, usual_pace
        from datamodules.preparation.alignment.stretches import Bounds, expected_starts, refined

        self.check()
        require_sound(sound)
        power = features.mel_power(sound)
        room = features.listen(power)
        heard = features.normalised(features.cepstrum(np.maximum(power, room.floor, out=power)))
        del power  # the largest of all
        edges = Edges(sound, room.noise)
        voices, loudnesses = self.speak(cues, room, edges)
        if len(heard) < max(len(voice) for voice in voices) // 2 + 3:
            raise AlignmentError(
                f"the sound of {len(sound) / features.SAMPLING_RATE:.1f} s is too short for the cues"
            )
        bounds = Bounds(self.max_offset_s, self.max_skew, self.jitter_s, self.stretch_s)
        expected_s, line_of = expected_starts(cues, voices, heard, bounds)
        windows = [self.window(*each, len(heard)) for each in zip(cues, expected_s, voices, strict=True)]
        hearings = [hear(voice, heard, one) for voice, one in zip(voices, windows, strict=True)]

        # A cue at 0 may have been cut off there: it may be heard any time before.
        deviations = [(self.earlier_s(cue) * FPS, self.jitter_s * FPS) for cue in cues]
        pace = None
        for _ in range(NUM_ROUNDS):
            found = choose(hearings, expected_s * FPS, deviations, pace, edges.starts_s * FPS)
            pace = usual_pace(found, hearings)
            begins_s = np.array([place.begin / FPS for place in found])
            is_sure = np.array([place.is_heard for place in found])
            expected_s = refined(starts(cues), begins_s, is_sure, expected_s, line_of)

        paths = [
            None if place.candidate is None else hearing.path(place.candidate, voice, heard)
            for place, hearing, voice in zip(found, hearings, voices, strict=True)
        ]
        bounds = np.array([snapped(edges, *each) for each in zip(found, paths, loudnesses, strict=True)])
        starts_s, ends_s = kept(cues, bounds[:, 0], bounds[:, 1])
        alignment = aligned(cues, (starts_s, ends_s), mismatch(found, hearings), line_of)
        self.examine(alignment)
        return alignment

    def examine(self, alignment: Alignment) -> None:
        """Refuse an alignment that is too bad to be one.

        Raises:
            AlignmentError: it is.
        """
        if alignment.residual_ms > self.max_residual_ms or alignment.mismatch > self.max_mismatch:
            raise AlignmentError(
                f"the cues are not what is heard: residual {alignment.residual_ms:.0f} ms, expected at most "
                f"{self.max_residual_ms:.0f}; mismatch {alignment.mismatch:.2f}, expected at most "
                f"{self.max_mismatch:.2f}"
            )

    def check(self) -> None:
        """Refuse a language that espeak-ng does not speak, and name the remedy.

        Raises:
            SpeechError: it does not, or there is no espeak-ng.
        """
        from datamodules.preparation.speech import check_voice

        check_voice(self.voice)

    def speak(
        self, cues: list[Cue], room: features.Room, edges: Edges
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return each cue as the reference voice would say it in the room: features (frames, 13), loudness (ms,)."""
        from datamodules.preparation.speech import MAX_CHARACTERS, Utterance, speak_many

        least = round(LEAST_LENGTH_S * features.SAMPLING_RATE)
        cepstra, loudnesses = [], []
        texts = [cue.text.replace("\0", " ")[:MAX_CHARACTERS] for cue in cues]
        for waveform in speak_many(Utterance(text, voice=self.voice) for text in texts):
            padded = np.pad(waveform, (0, max(0, least - len(waveform))))
            cepstra.append(features.cepstrum(room.place(features.mel_power(padded))))
            loudnesses.append(edges.loudness(padded))
        together = features.normalised(np.concatenate(cepstra))
        return np.split(together, np.cumsum([len(one) for one in cepstra])[:-1]), loudnesses

    def earlier_s(self, cue: Cue) -> float:
        """Return how far a cue may be before where the line has it, a standard deviation."""
        return self.jitter_s if cue.start_s > 0 else self.max_offset_s

    def window(self, cue: Cue, expected_s: float, voice: np.ndarray, num_frames: int) -> slice:
        """Return the frames of the sound that a cue is sought in."""
        early_s = self.max_offset_s if cue.start_s <= 0 else REACH * self.jitter_s
        low = max(0, min(int((expected_s - early_s) * FPS), num_frames - len(voice)))
        high = int((expected_s + REACH * self.jitter_s) * FPS + MAX_PACE * len(voice))
        return slice(low, max(high, low + len(voice)))


def snapped(
    edges: Edges, place: "Place", path: tuple[np.ndarray, np.ndarray] | None, loudness: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return start and end, seconds, of a cue by the bounds of pauses near where it is heard, and how unsure each is.

    Noise covers soft sounds: what lies before the first and after the last that would be audible is added back, and
    half as much is unsure. Where there is no pause, a start or end is unsure by VAGUE_S.
    """
    start_s, end_s = place.begin / FPS, place.end / FPS
    length_s = edges.length_s(loudness)
    pace = (end_s - start_s) / length_s
    said_db = edges.as_said(loudness, start_s, end_s)
    from_s, until_s = edges.audible_s(said_db)
    if path is None:
        first_s, last_s = start_s + pace * from_s, start_s + pace * until_s
    else:
        first_s, last_s = np.interp(np.array([from_s, until_s]) * FPS, *path) / FPS
    unsure_s = [VAGUE_S, VAGUE_S]
    begins_s, stops_s = edges.start_near(first_s), edges.end_near(last_s)
    if begins_s is not None:
        drowned_s = edges.drowned_s(said_db, begins_s, pace) if from_s > 0 else 0.0
        start_s = begins_s - drowned_s
        unsure_s[0] = max(drowned_s, pace * from_s) / 2
    if stops_s is not None:
        end_s = stops_s + pace * (length_s - until_s)
        unsure_s[1] = pace * (length_s - until_s) / 2
    return (start_s, end_s), (unsure_s[0], unsure_s[1])


def kept(cues: list[Cue], bounds_s: np.ndarray, unsure_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends (cues,) of bounds (cues, 2), where those that move no further than is sure stay."""
    given = np.stack([starts(cues), ends(cues)], axis=1)
    starts_s, ends_s = np.where(np.abs(bounds_s - given) <= KEEP_S + unsure_s, given, bounds_s).T
    return starts_s, np.maximum(ends_s, starts_s + 1 / FPS)
