"""The section of one set: what became of its samples, what they look like, how they are spread."""

import json

from datamodules.preparation.exhibits.histogram import Histogram
from datamodules.preparation.exhibits.measures import MEASURES, Measure
from stages.page.html import Html, join, tag
from stages.page.pieces import lead, percent
from stages.prepare import alignment
from stages.prepare.cards import cards, name_list
from stages.prepare.charts import bars, number
from stages.prepare.finished import Finished

SHOWN_CHARACTERS = 20_000
TOLD = frozenset(
    {"version", "set", "samples", "shards", "members", "dropped", "dropped_names", "alignment", "made_from"}
)
"""Entries of a manifest that the page shows elsewhere."""


def of_set(one: Finished) -> Html:
    """Return the section of a set."""
    total = max(1, one.kept + one.dropped)
    about = f"{one.kept:,} of {total:,} samples are in the shards: {percent(one.kept / total)}."
    notes = [tag("p", f"Not shown: {problem}", class_="small") for problem in one.problems]
    parts = {
        "what became of them": outcome(one),
        "kept": cards([shown for _, shown in one.exhibits.kept.ranked], one.twins),
        "dropped": dropped(one),
        "alignment in time": alignment.of_clips(one.alignment),
        "how they are spread": histograms(one),
        "in the manifest": folds(one),
    }
    shown = [join([tag("h3", title, class_="kind"), part]) for title, part in parts.items() if part]
    return join([lead(about), notes, shown])


def outcome(one: Finished) -> Html:
    """Return a bar for those kept and one for each reason to drop."""
    total = max(1, one.kept + one.dropped)
    reasons = sorted(one.manifest["dropped"].items(), key=lambda pair: -pair[1])
    counts = [("kept", one.kept, "--right"), *((reason, count, "--wrong") for reason, count in reasons)]
    rows = []
    for name, count, hue in counts:
        bar = tag("div", tag("b", style=f"width:{count / total * 100:.2f}%"), class_="meter")
        cells = [tag("td", text, class_="number") for text in (f"{count:,}", percent(count / total))]
        rows.append(
            tag("tr", tag("td", name), tag("td", bar, class_="bar", style=f"--hue:var({hue})"), cells)
        )
    return tag("div", tag("table", tag("tbody", rows), class_="outcome"), class_="panel")


def dropped(one: Finished) -> Html:
    """Return a tab for each reason, the most frequent first: examples, and the names that the manifest holds."""
    tabs = []
    for reason, count in sorted(one.manifest["dropped"].items(), key=lambda pair: -pair[1]):
        chosen = one.exhibits.dropped.get(reason)
        exhibits = [shown for _, shown in chosen.ranked] if chosen else []
        names = one.manifest["dropped_names"].get(reason, [])
        rest = f" of {count:,}" if count > len(names) else ""
        fold = tag(
            "details",
            tag("summary", f"the first {len(names)} names{rest}" if rest else "all names"),
            name_list(names),
        )
        title = f"{reason} · {count:,}"
        shown = cards(exhibits, one.twins)
        tabs.append(tag("div", tag("h3", title), shown, fold if names else [], data_tab=title))
    return tag("div", tabs, data_tabs="true") if tabs else Html()


def histograms(one: Finished) -> Html:
    """Return a histogram of each measure over all samples that were kept."""
    order = {name: place for place, name in enumerate(MEASURES)}
    found = sorted(
        one.exhibits.histograms.items(), key=lambda pair: (order.get(pair[0], len(order)), pair[0])
    )
    figures = []
    for name, histogram in found:
        if not len(histogram):
            continue
        measure = MEASURES.get(name, Measure(name.replace("_", " ")))
        told = tag("p", spread(histogram, measure.unit), class_="small")
        chart = bars(histogram, title=f"Histogram of {measure.title}")
        figures.append(tag("div", tag("h3", measure.title), told, chart, class_="card"))
    return tag("div", figures, class_="curves") if figures else Html()


def spread(histogram: Histogram, unit: str) -> str:
    """Return the least, the most and about the middle of all values in words."""
    if histogram.least == histogram.most:
        return f"all of them {number(histogram.least)} {unit}".strip()
    span = f"{number(histogram.least)} to {number(histogram.most)} {unit}".strip()
    return f"{span}, median about {number(histogram.quantile(0.5), 2)}"


def folds(one: Finished) -> Html:
    """Return what else the manifest holds, folded."""
    rest = {name: value for name, value in one.manifest.items() if name not in TOLD}
    entries = {"made from": one.manifest.get("made_from"), **rest}
    return tag(
        "div",
        [
            tag("details", tag("summary", name), tag("pre", text(value)))
            for name, value in entries.items()
            if value
        ],
        class_="panel",
    )


def text(value: object) -> str:
    """Return a plain value as readable text, cut where it is very long."""
    if isinstance(value, str):
        return value[:SHOWN_CHARACTERS]
    found = json.dumps(value, indent=2, ensure_ascii=False)
    return found if len(found) <= SHOWN_CHARACTERS else f"{found[:SHOWN_CHARACTERS]}\n…"
