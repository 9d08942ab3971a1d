"""An exhibit as elements of the page: its pictures, sounds and words, and what it is called."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.page.charts import waveform
from stages.page.html import Html, join, tag
from stages.page.media import picture, player

PICTURE_URI = "data:image/jpeg;base64,"
SOUND_URI = "data:audio/"
BARS = 60

Shown = Mapping[str, Any]


def cards(exhibits: Sequence[Shown], twins: Mapping[str, Shown]) -> Html:
    """Return exhibits side by side, one beside the kept sample it resembles; those without media as a list of names."""
    pairs = [pair(shown, twins) for shown in exhibits if shown.get("twin")]
    single = [tag("div", one(shown), class_="exhibit") for shown in exhibits if is_single(shown)]
    names = [shown["name"] for shown in exhibits if not shown.get("twin") and not shown["previews"]]
    return join([grid("pairs", pairs), grid("exhibits", single), name_list(names)])


def is_single(shown: Shown) -> bool:
    """Return whether an exhibit has media of its own and resembles no other."""
    return not shown.get("twin") and bool(shown["previews"])


def grid(kind: str, elements: Sequence[Html]) -> Html:
    """Return elements in columns; nothing for none."""
    return tag("div", elements, class_=kind) if elements else Html()


def name_list(names: Sequence[str]) -> Html:
    """Return names, a line each; nothing for none."""
    return tag("ul", [tag("li", tag("bdi", name)) for name in names], class_="names") if names else Html()


def pair(shown: Shown, twins: Mapping[str, Shown]) -> Html:
    """Return a dropped exhibit beside its twin, each under what became of it."""
    twin = twins.get(shown["twin"])
    kept = one(twin) if twin else tag("p", f"{shown['twin']} is not in the shards", class_="small")
    left = tag("div", tag("span", "kept", class_="mark kept"), kept)
    right = tag("div", tag("span", "dropped", class_="mark dropped"), one(shown))
    return tag("div", left, right, class_="exhibit pair")


def one(shown: Shown) -> Html:
    """Return the previews of an exhibit, and its name."""
    seen: list[Html] = []
    rest: list[Html] = []
    for preview in shown["previews"]:
        (seen if preview["kind"] == "picture" else rest).append(element(preview))
    told = tag("div", tag("bdi", shown["name"]), class_="name")
    return join([tag("div", seen, class_="seen"), rest, told])


def element(preview: Shown) -> Html:
    """Return one member; what has no picture or sound that the page may hold is told in words."""
    suffix, uri = preview["suffix"], preview.get("uri", "")
    if preview["kind"] == "picture" and uri.startswith(PICTURE_URI):
        return tag("figure", picture(uri), caption(suffix, f"{preview['width']} × {preview['height']}"))
    if preview["kind"] == "sound":
        envelope = coarse(preview["peaks"], BARS)
        heard = player(uri, envelope) if uri.startswith(SOUND_URI) else tag("span", waveform(envelope))
        return tag("figure", heard, caption(suffix, f"{preview['seconds']:,.2f} s"))
    if preview["kind"] == "text":
        end = tag("span", " …", class_="small") if preview["is_cut"] else []
        shown = preview["text"] if preview["text"].strip() else tag("span", "(blank)", class_="small")
        return tag("p", shown, end, class_="words", dir="auto")
    why = preview.get("why", "not shown")
    return tag("div", tag("b", f".{suffix}"), tag("span", why), class_="blind")


def caption(suffix: str, about: str) -> Html:
    """Return what stands below a picture or a sound."""
    return tag("figcaption", f".{suffix} · {about}")


def coarse(envelope: Sequence[float], bars: int) -> list[float]:
    """Return the largest values of about `bars` equal spans."""
    span = max(1, len(envelope) // bars)
    return [max(envelope[start : start + span]) for start in range(0, len(envelope), span)]
