"""Text to speech with espeak-ng, the reference voice that subtitles are aligned against."""

import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

SAMPLING_RATE = 16_000
REFERENCE_VOICE = "en-us"
MAX_CHARACTERS = 1000
SILENCE = 0.01
"""What lies this far below the peak (-40 dB) at the ends of an utterance is silence."""

VOICE = re.compile(r"[A-Za-z0-9-]+(\+[A-Za-z0-9_-]+)?")


class SpeechError(ValueError):
    """A text that cannot be spoken, or nothing to speak it with."""


@dataclass(frozen=True)
class Utterance:
    """What to say and how. The text is plain text: markup in it is read out, never obeyed.

    Raises:
        SpeechError: the text is empty, holds a NUL or more than 1000 characters, the voice is not a name such as
            `en-us` or `en-gb-scotland+f3`, or a number is out of its range.
    """

    text: str
    voice: str = REFERENCE_VOICE
    """A language of espeak-ng, and after a plus sign a variant."""
    rate_wpm: int = 175
    """Words per minute, 80 to 450."""
    pitch: int = 50
    """From 0 (low) to 99."""
    volume: int = 100
    """From 1 to 200; 100 is espeak-ng's own."""

    def __post_init__(self) -> None:
        if not self.text.strip() or "\0" in self.text or len(self.text) > MAX_CHARACTERS:
            raise SpeechError(
                f"Found a text of {len(self.text)} characters ({self.text[:40]!r}); expected 1 to "
                f"{MAX_CHARACTERS}, not all blank, without NUL. Split or skip it."
            )
        if not VOICE.fullmatch(self.voice):
            raise SpeechError(
                f"Found the voice {self.voice!r}; expected a name such as 'en-us' or 'en-us+f3'."
            )
        numbers = (
            ("rate_wpm", self.rate_wpm, 80, 450),
            ("pitch", self.pitch, 0, 99),
            ("volume", self.volume, 1, 200),
        )
        for name, number, low, high in numbers:
            if not low <= number <= high:
                raise SpeechError(f"Found {name} = {number}; expected {low} to {high}.")


@dataclass(frozen=True)
class Speech:
    """An utterance as sound: `waveform` (samples,) float32, 16 kHz, in [-1, 1], from its first sound to its last.

    A text in which nothing can be pronounced has zero samples.
    """

    waveform: np.ndarray
    word_onsets_s: tuple[float, ...]
    """When each word begins, seconds after the waveform's first sample."""


class Speaker:
    """One process of espeak-ng; equal utterances give equal samples, whatever was said before.

    A context manager. It is not for several threads at once: give each its own, as `speak_many` does.

    Raises:
        SpeechError: espeak-ng is not installed or does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise SpeechError(
                "Found no espeak-ng to speak with; expected the package espeakng-loader. "
                "Install it: pip install 'trivium[demo]'"
            ) from None
        script = Path(__file__).with_name("espeak.py")
        paths = [espeakng_loader.get_library_path(), espeakng_loader.get_data_path()]
        # -S and -I keep the process small, and with it the price of a fork.
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-I", str(script), *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self.rate_hz: int = self._receive("")[0]["rate_hz"]
        except SpeechError:
            self.close()
            raise

    def __enter__(self) -> "Speaker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def say(self, utterance: Utterance) -> Speech:
        """Speak it.

        Raises:
            SpeechError: espeak-ng has no such voice, or crashed on this text. The speaker itself goes on.
        """
        import soxr

        self.process.stdin.write(json.dumps(asdict(utterance)).encode() + b"\n")
        self.process.stdin.flush()
        head, data = self._receive(f"{utterance.voice}: {utterance.text[:40]!r}")
        spoken = np.frombuffer(data, np.int16).astype(np.float32) / 32768
        waveform = soxr.resample(spoken, self.rate_hz, SAMPLING_RATE)
        start, stop = sounding(waveform)
        onsets = (sample / self.rate_hz - start / SAMPLING_RATE for sample in head["word_onsets"])
        return Speech(waveform[start:stop], tuple(max(0.0, onset) for onset in onsets))

    def _receive(self, asked: str) -> tuple[dict, bytes]:
        line = self.process.stdout.readline()
        head = json.loads(line) if line else {"error": "the process of espeak-ng ended"}
        if "error" in head:
            raise SpeechError(f"Cannot speak {asked or 'at all'}: {head['error']}.")
        return head, self.process.stdout.read(head.get("num_bytes", 0))


def check_voice(voice: str) -> None:
    """Refuse a language that espeak-ng does not speak.

    Raises:
        SpeechError: there is no such voice, and what to do.
    """
    with Speaker() as speaker:
        try:
            speaker.say(Utterance("a", voice=voice))
        except SpeechError as error:
            raise SpeechError(
                f"espeak-ng cannot speak {voice!r} ({error}); expected one of its languages, such as 'en-us' or 'de'. "
                "Name another `voice`, or align by datamodules.preparation.alignment.activity.Activity, which does not "
                "need to know the language."
            ) from error


def sounding(waveform: np.ndarray) -> tuple[int, int]:
    """Return where in waveform (samples,) the sound starts and stops: all outside is 40 dB below the peak."""
    loud = np.flatnonzero(np.abs(waveform) > SILENCE * np.abs(waveform).max(initial=0))
    return (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, 0)


def speak(text: str, voice: str = REFERENCE_VOICE, rate_wpm: int = 175, pitch: int = 50) -> np.ndarray:
    """Return the text as waveform (samples,), float32, 16 kHz. For more than one text use `speak_many`."""
    with Speaker() as speaker:
        return speaker.say(Utterance(text, voice=voice, rate_wpm=rate_wpm, pitch=pitch)).waveform


def speak_many(utterances: Iterable[Utterance], num_workers: int = 1) -> Iterator[np.ndarray]:
    """Yield the waveform (samples,), float32, 16 kHz of each utterance, in order, from `num_workers` processes.

    Raises:
        SpeechError: as `Speaker` and `Speaker.say` do.
    """
    with ExitStack() as stack:
        speakers = [stack.enter_context(Speaker()) for _ in range(num_workers)]
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(num_workers)]
        pending: deque[Future[Speech]] = deque()
        for index, utterance in enumerate(utterances):
            pending.append(threads[index % num_workers].submit(speakers[index % num_workers].say, utterance))
            if len(pending) == 4 * num_workers:  # bounds what waits in memory
                yield pending.popleft().result().waveform
        while pending:
            yield pending.popleft().result().waveform
