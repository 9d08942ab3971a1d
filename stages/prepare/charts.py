"""Charts that only this report shows: histograms, and the cues of a clip over its sound and over time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from datamodules.preparation.exhibits.histogram import Histogram
from stages.page.charts import nice_ticks, svg
from stages.page.html import Html, tag

BINS = 60
DOTS = 400


class Cues(NamedTuple):
    """The cues of a clip over its time: `times_s` (cues,), seconds; `before`, `after` (cues,), milliseconds."""

    times_s: Sequence[float]
    before: Sequence[float]
    after: Sequence[float]


class Spans(NamedTuple):
    """Where the cues of a clip lie, seconds: `before`, `after` (cues,) from and until, over `loudness`, 0 to 1."""

    sound_s: float
    loudness: Sequence[float]
    before: Sequence[tuple[float, float]]
    after: Sequence[tuple[float, float]]


def bars(histogram: Histogram, *, title: str, width: int = 360, height: int = 150) -> Html:
    """Draw a histogram that is not empty; more bins than can be told apart are joined."""
    left, right, top, bottom = 8, 8, 8, 22
    counts = dict(histogram)
    if not counts:
        return tag("p", "all of them 0 or below", class_="small")
    first, last = min(counts), max(counts)
    # A lone bin would fill the chart and look like a spread; it stands among empty ones.
    spare = max(0, 8 - (last - first + 1)) // 2
    first, last = first - spare, last + spare
    joined = max(1, math.ceil((last - first + 1) / BINS))
    heights = [
        sum(counts.get(number, 0) for number in range(start, start + joined))
        for start in range(first, last + 1, joined)
    ]
    pitch, largest = (width - left - right) / len(heights), max(heights)
    drawn = [tag("line", class_="grid", x1=left, x2=width - right, y1=height - bottom, y2=height - bottom)]
    for place, count in enumerate(heights):
        size = count and max(1.5, count / largest * (height - top - bottom))
        start = first + place * joined
        told = f"{number(histogram.edge(start))} to {number(histogram.edge(start + joined))}: {count:,}"
        box = tag(
            "rect",
            x=round(left + place * pitch, 1),
            y=round(height - bottom - size, 1),
            width=round(max(0.8, pitch - 1), 1),
            height=round(size, 1),
        )
        drawn.append(tag("g", tag("title", told), box, class_="bin"))
    for value in round_numbers(histogram, first, first + joined * len(heights)):
        x = left + (histogram.place(value) - first) / joined * pitch
        drawn.append(tag("text", number(value), x=round(x, 1), y=height - 6, text_anchor="middle"))
    return svg(drawn, width, height, title)


def round_numbers(histogram: Histogram, first: int, last: int, most: int = 5) -> list[float]:
    """Return at most `most` round numbers between the beginnings of two bins, away from the ends of the axis."""
    low, high = histogram.edge(first), histogram.edge(last)
    if histogram.width is not None:
        found = nice_ticks(low, high)
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    margin = (last - first) / 30
    inside = [value for value in found if first + margin <= histogram.place(value) <= last - margin]
    if len(inside) > most and histogram.width is None:
        whole = [value for value in inside if round(math.log10(value), 6).is_integer()]
        inside = whole if len(whole) > 1 else inside
    return inside[:: math.ceil(len(inside) / most) or 1]


def spans(clip: Spans, *, title: str, width: int = 360) -> Html:
    """Draw how loud a sound is, above it the cues as the subtitles have them, below it as they were found."""
    left, right, lane, curve = 58, 10, 12, 34
    tops = {"before": 8, "after": 8 + lane + 4 + curve + 4}
    height = tops["after"] + lane + 6
    last_s = max([clip.sound_s, *(end_s for _, end_s in [*clip.before, *clip.after]), 1e-3])
    scale = (width - left - right) / last_s
    bottom = tops["before"] + lane + 4 + curve
    points = [
        f"{left + (place + 0.5) / len(clip.loudness) * clip.sound_s * scale:.1f} {bottom - curve * value:.1f}"
        for place, value in enumerate(clip.loudness)
    ]
    area = " L".join([f"M{left} {bottom}", *points, f"{left + clip.sound_s * scale:.1f} {bottom} Z"])
    drawn = [tag("path", d=area, class_="loudness")]
    for kind, places in (("before", clip.before), ("after", clip.after)):
        boxes = [
            tag(
                "rect",
                x=round(left + start_s * scale, 1),
                y=tops[kind],
                width=round(max(1.0, (end_s - start_s) * scale), 1),
                height=lane,
                rx=2,
            )
            for start_s, end_s in places[:DOTS]
        ]
        drawn.append(tag("g", boxes, class_=kind))
        drawn.append(tag("text", kind, x=left - 8, y=tops[kind] + lane - 2, text_anchor="end"))
    return svg(drawn, width, height, title)


def cues(clip: Cues, *, title: str, width: int = 360) -> Html:
    """Draw how far each cue of a clip was off before, and is after, each to its own scale; at least one cue."""
    left, right, row, gap, bottom = 58, 10, 68, 24, 28
    height = 8 + 2 * row + gap + bottom
    begin_s, end_s = min(clip.times_s), max(clip.times_s)
    every = math.ceil(len(clip.times_s) / DOTS)
    drawn = []
    for kind, values, top in (("before", clip.before, 8), ("after", clip.after, 8 + row + gap)):
        ticks = nice_ticks(min(0.0, *values), max(0.0, *values), count=2)
        low, high = ticks[0], ticks[-1]
        for tick in ticks:
            y = round(top + (high - tick) / (high - low) * row, 1)
            of_line = "grid zero" if tick == 0 else "grid"
            drawn.append(tag("line", class_=of_line, x1=left, x2=width - right, y1=y, y2=y))
            drawn.append(tag("text", span(tick, high - low), x=left - 8, y=y + 3.5, text_anchor="end"))
        dots = [
            tag(
                "circle",
                cx=round(left + (time_s - begin_s) / ((end_s - begin_s) or 1) * (width - left - right), 1),
                cy=round(top + (high - value) / (high - low) * row, 1),
                r=2.6,
            )
            for time_s, value in list(zip(clip.times_s, values, strict=True))[::every]
        ]
        drawn.append(tag("g", dots, class_=kind))
    for time_s, x, anchor in ((begin_s, left, "start"), (end_s, width - right, "end")):
        drawn.append(tag("text", clock(time_s), x=x, y=height - 6, text_anchor=anchor))
    return svg(drawn, width, height, title)


def span(milliseconds: float, of: float) -> str:
    """Return a length of time on a scale that spans `of` milliseconds, in the unit that suits that."""
    return f"{milliseconds / 1000:g} s" if of >= 2000 else f"{milliseconds:g} ms"


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def number(value: float, digits: int = 3) -> str:
    """Return a number with the digits that matter, in thousands and more where it is large."""
    for limit, factor, unit in ((9_999.5, 1, ""), (999.5e3, 1e3, " k"), (999.5e6, 1e6, " M")):
        if abs(value) < limit:
            scaled = round(value / factor, 10)
            return f"{float(f'{scaled:.{digits}g}'):,.10g}{unit}"
    return f"{value / 1e9:.{digits}g} G"
