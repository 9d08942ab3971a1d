"""How subtitles were aligned in time: a card for each clip, and methods compared where that was done."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.page.html import Html, join, tag
from stages.page.pieces import lead, legend, milliseconds
from stages.prepare.charts import Cues, Spans, cues, number, spans

CLIPS = 24
LOUDNESS_POINTS = 1000


@dataclass(frozen=True)
class Clip:
    """One clip of alignment.json, checked."""

    name: str
    offset_s: float
    rate: float
    residual_ms: float
    cues: Cues
    spans: Spans
    errors_ms: tuple[float, float] | None = None
    """Medians before and after, where the right times are known."""


@dataclass(frozen=True)
class Alignment:
    """What alignment.json tells."""

    clips: Sequence[Clip] = ()
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Method -> name of a figure -> figure, of methods tried on the same clips."""


def read_alignment(content: Mapping[str, Any]) -> Alignment:
    """Return what alignment.json holds, with only what the page shows.

    Raises:
        ValueError: it is not as a source of subtitled videos writes it.
    """
    try:
        clips = [read_clip(clip) for clip in content["clips"]]
        methods = {str(name): dict(found) for name, found in content.get("comparison", {}).items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not as the source writes it ({error!r})") from error
    return Alignment(clips, methods)


def read_clip(clip: Mapping[str, Any]) -> Clip:
    """Return one clip.

    Raises:
        KeyError, TypeError, ValueError: it lacks something, or a number is none or not finite.
    """
    moments = ("before_ms", "after_ms")
    medians = [finite(clip[moment]["median"]) for moment in moments if moment in clip]
    return Clip(
        name=str(clip["name"]),
        offset_s=finite(clip["offset_s"]),
        rate=finite(clip["rate"]),
        residual_ms=finite(clip["residual_ms"]),
        cues=over_time(clip["cues"]),
        spans=in_sound(clip),
        errors_ms=(medians[0], medians[1]) if len(medians) == len(moments) else None,
    )


def over_time(listed: Sequence[Mapping[str, Any]]) -> Cues:
    """Return how far cues were off before and are after, milliseconds.

    Where the right time of a cue is not known, it was off by as far as it was moved, and is by its residual.
    """
    times_s = [finite(cue["after_s"]) for cue in listed]
    before = [1000 * (finite(cue["before_s"]) - finite(cue.get("true_s", cue["after_s"]))) for cue in listed]
    after = [
        1000 * (cue["after_s"] - finite(cue["true_s"])) if "true_s" in cue else finite(cue["residual_ms"])
        for cue in listed
    ]
    return Cues(times_s, before, after)


def in_sound(clip: Mapping[str, Any]) -> Spans:
    """Return where the cues lie in the sound, and how loud it is, no curve where that is not known."""
    before, after = (
        [(finite(cue[f"{moment}_s"]), finite(cue[f"{moment}_end_s"])) for cue in clip["cues"]]
        for moment in ("before", "after")
    )
    sound = clip.get("loudness", {"seconds": 0.0, "curve": []})
    curve = [min(1.0, max(0.0, finite(value) / 99)) for value in sound["curve"][:LOUDNESS_POINTS]]
    return Spans(finite(sound["seconds"]), curve, before, after)


def finite(value: float) -> float:
    """Return a number that can be drawn.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not math.isfinite(value):
        raise ValueError(f"found {value}, expected a finite number")
    return float(value)


def of_clips(alignment: Alignment) -> Html:
    """Return the section; nothing where there is no clip."""
    clips = sorted(alignment.clips, key=lambda clip: -clip.residual_ms)
    if not clips:
        return Html()
    about = (
        "Over and under the loudness of the sound, the cues as the subtitles have them and where they were found. Each "
        "dot is a cue, over the time of the clip: above, how far it was off before, or was moved where the right time "
        "is not known; below, what is left after: the error, or the distance from the clip's straight line."
    )
    most = f" These are the {CLIPS} of {len(clips):,} clips that fit worst." if len(clips) > CLIPS else ""
    return join(
        [
            compared(alignment.methods),
            lead(about + most),
            legend(before="--soft", after="--c2"),
            tag("div", [card(clip) for clip in clips[:CLIPS]], class_="curves"),
        ]
    )


def card(clip: Clip) -> Html:
    """Return one clip: offset, rate and residual, and its cues over time."""
    told = {
        "offset": f"{clip.offset_s:+.2f} s",
        "rate": f"{clip.rate:.4f}",
        "residual": f"{milliseconds(clip.residual_ms)} ms",
    }
    if clip.errors_ms:
        before, after = (milliseconds(error) for error in clip.errors_ms)
        told["error"] = f"{before} → {after} ms"
    figures = tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in told.items()])
    drawn = []
    if clip.cues.times_s:
        drawn.append(spans(clip.spans, title=f"Where the cues of {clip.name} lie in its sound"))
        drawn.append(cues(clip.cues, title=f"How far the cues of {clip.name} are off"))
    return tag("div", tag("h3", tag("bdi", clip.name)), figures, drawn, class_="card clip")


def compared(methods: Mapping[str, Mapping[str, Any]]) -> Html:
    """Return a line for each method that was tried on the same clips."""
    if not methods:
        return Html()
    columns = list(dict.fromkeys(column for found in methods.values() for column in found))
    headings = [tag("th", column.replace("_", " "), class_="number") for column in columns]
    rows = [
        tag(
            "tr",
            tag("td", method),
            [tag("td", figure(found.get(column)), class_="number") for column in columns],
        )
        for method, found in methods.items()
    ]
    head = tag("thead", tag("tr", tag("th", "method"), headings))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="panel")


def figure(value: object) -> str:
    """Return a figure as text, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return str(value)
    return number(value)
