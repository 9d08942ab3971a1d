"""Charts that only the evaluation's report shows."""

import math
from collections.abc import Sequence

from stages.evaluate.subtitles import Clip
from stages.page.charts import svg
from stages.page.html import Html, tag


def errors(clips: Sequence[Clip], *, title: str, width: int = 760) -> Html:
    """Draw the absolute errors of each clip's cues, before and after, in milliseconds on a logarithmic scale."""
    left, right, top, row = 110, 40, 12, 30
    height = top + row * len(clips) + 36
    largest = max(abs(error) for clip in clips for error in (*clip.before, *clip.after))
    decades = max(1, math.ceil(math.log10(max(largest, 1.0))))

    def across(error: float) -> float:
        return round(left + math.log10(max(1.0, abs(error))) / decades * (width - left - right), 1)

    drawn = []
    for decade in range(decades + 1):
        x = across(10**decade)
        drawn.append(tag("line", class_="grid", x1=x, x2=x, y1=top - 6, y2=height - 30))
        drawn.append(tag("text", f"{10**decade:,} ms", x=x, y=height - 14, text_anchor="middle"))
    for number, clip in enumerate(clips):
        y = top + row * (number + 0.5)
        drawn.append(tag("text", clip.name, x=left - 14, y=y + 3.5, text_anchor="end"))
        for kind, side, lift in (("before", clip.before, -5), ("after", clip.after, 5)):
            dots = [tag("circle", cx=across(error), cy=y + lift, r=3.6) for error in side]
            drawn.append(tag("g", dots, class_=kind))
    return svg(drawn, width, height, title)
