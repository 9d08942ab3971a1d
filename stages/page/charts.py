"""Charts as inline SVG, drawn by hand: no script, no font, colours taken from the page's style."""

import math
from collections.abc import Mapping, Sequence

from stages.page.html import Html, tag

Curve = Sequence[tuple[float, float]]
"""Points (x, y)."""


def lines(curves: Mapping[str, Curve], *, title: str, width: int = 360, height: int = 200) -> Html:
    """Draw named curves, none of them empty."""
    left, right, top, bottom = 40, 8, 10, 26
    points = [point for curve in curves.values() for point in curve]
    x_max = max(x for x, _ in points) or 1
    ticks = nice_ticks(min(0.0, *(y for _, y in points)), max(y for _, y in points))
    y_min, y_max = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across, down = x / x_max, (y_max - y) / (y_max - y_min)
        return round(left + across * (width - left - right), 1), round(
            top + down * (height - top - bottom), 1
        )

    drawn = []
    for tick in ticks:
        _, y = place(0, tick)
        drawn.append(tag("line", class_="grid", x1=left, x2=width - right, y1=y, y2=y))
        drawn.append(tag("text", f"{tick:g}", x=left - 8, y=y + 3.5, text_anchor="end"))
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        x, _ = place(share * x_max, 0)
        drawn.append(tag("text", f"{share * x_max:,.0f}", x=x, y=height - 8, text_anchor=anchor))
    for number, (name, curve) in enumerate(curves.items()):
        places = [place(*point) for point in curve]
        path = "M" + " L".join(f"{x} {y}" for x, y in places)
        end = tag("circle", cx=places[-1][0], cy=places[-1][1], r=3)
        drawn.append(tag("g", tag("title", name), tag("path", d=path), end, class_=f"curve c{number}"))
    return svg(drawn, width, height, title)


def waveform(envelope: Sequence[float], *, height: int = 28, pitch: int = 3) -> Html:
    """Draw a sound's envelope, values in [0, 1], as bars."""
    bars = []
    for index, value in enumerate(envelope):
        size = round(max(1.5, value * height), 1)
        bars.append(tag("rect", x=index * pitch, y=(height - size) / 2, width=pitch - 1, height=size, rx=1))
    return tag(
        "svg", bars, class_="wave", viewBox=f"0 0 {len(envelope) * pitch} {height}", aria_hidden="true"
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return two or more round numbers in even steps, about `count`, that span low to high."""
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span <= power * factor * count)
    first = math.floor(low / step)
    last = max(first + 1, math.ceil(high / step))
    return [round(step * index, 10) for index in range(first, last + 1)]


def svg(drawn: Sequence[Html], width: int, height: int, title: str) -> Html:
    """Return a chart of what was drawn, with a title for those who cannot see it."""
    return tag("svg", drawn, class_="chart", viewBox=f"0 0 {width} {height}", role="img", aria_label=title)
