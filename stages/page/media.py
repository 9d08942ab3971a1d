"""Media as elements of the page: pictures and playable sounds, held by the page itself."""

from collections.abc import Sequence

from stages.page.charts import waveform
from stages.page.html import Html, tag


def picture(uri: str, *overlays: Html) -> Html:
    """Return a picture with others laid over it."""
    return tag("span", tag("img", alt="", src=uri), overlays, class_="picture")


def player(uri: str, envelope: Sequence[float]) -> Html:
    """Return a play button with the sound's envelope, values in [0, 1]."""
    button = tag("button", type="button", class_="play", aria_label="Play")
    audio = tag("audio", preload="none", src=uri)
    return tag("span", button, waveform(envelope), audio, class_="player")
