"""The process in which espeak-ng speaks: requests come in as JSON lines, answers go out as a line and samples.

Run as a script by `datamodules.preparation.speech`, with the standard library alone, because it forks for every
utterance: espeak-ng carries state from one utterance into the next which nothing resets, so that only a fresh copy of
the loaded library says the same words with the same samples every time. A crash or a hang ends that copy, no more.
"""

import ctypes
import json
import os
import signal
import sys

RETRIEVAL, NO_EXIT = 2, 0x8000
RATE, VOLUME, PITCH = 1, 2, 3
UTF8 = 1
WORD = 1
TIMEOUT_S = 20


class Identifier(ctypes.Union):
    """The last member of espeak's event."""

    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", Identifier),
    )


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


def synthesize(espeak: ctypes.CDLL, request: dict) -> tuple[dict, bytes]:
    """Speak one request; return the answer's head and its samples, 16-bit mono."""
    samples: list[bytes] = []
    words: list[int] = []

    def receive(waveform, count, events) -> int:
        if waveform and count:
            samples.append(ctypes.string_at(waveform, 2 * count))
        index = 0
        while events[index].type:
            if events[index].type == WORD:
                words.append(events[index].sample)
            index += 1
        return 0

    callback = Callback(receive)
    espeak.espeak_SetSynthCallback(callback)
    if espeak.espeak_SetVoiceByName(request["voice"].encode()):
        return {"error": "espeak-ng has no such voice"}, b""
    for parameter, key in ((RATE, "rate_wpm"), (PITCH, "pitch"), (VOLUME, "volume")):
        espeak.espeak_SetParameter(parameter, request[key], 0)
    text = request["text"].encode() + b"\0"
    if espeak.espeak_Synth(text, len(text), 0, 1, 0, UTF8, None, None) or espeak.espeak_Synchronize():
        return {"error": "espeak-ng failed to speak it"}, b""
    waveform = b"".join(samples)
    return {"num_bytes": len(waveform), "word_onsets": words}, waveform


def answer(head: dict, waveform: bytes = b"") -> None:
    """Write one answer."""
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + waveform)
    sys.stdout.buffer.flush()


def main(library: str, data: str) -> None:
    """Serve requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes our input
    espeak = ctypes.CDLL(library)
    rate_hz = espeak.espeak_Initialize(RETRIEVAL, 0, data.encode(), NO_EXIT)
    espeak.espeak_ng_SetRandSeed(0)  # else the clock seeds it
    espeak.espeak_SetVoiceByName(b"en")  # the copies find its dictionary loaded
    answer({"rate_hz": rate_hz} if rate_hz > 0 else {"error": f"espeak-ng does not start with {data}"})
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            signal.alarm(TIMEOUT_S)
            answer(*synthesize(espeak, json.loads(line)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            answer({"error": f"espeak-ng crashed or hung on it (wait status {status})"})


if __name__ == "__main__":
    main(*sys.argv[1:])
