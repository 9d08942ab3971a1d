"""The report of `prepare`: what was kept and what was dropped, to look at; one HTML file over all sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.page import page
from stages.page.html import Html, join, tag
from stages.page.pieces import lead, percent
from stages.prepare import sections
from stages.prepare.finished import Finished, read

STYLE = Path(__file__).with_name("report.css")
FILE = "report.html"
NUMBERS = ("kept", "dropped", "", "shards", "MB", "seconds")


def write_report(out: Path, folders: Sequence[Path], seconds: Mapping[str, float] | None = None) -> Path:
    """Write `report.html` into `out`, over finished sets, and return its path.

    Args:
        out: the output folder.
        folders: of the sets, in the order in which they are shown.
        seconds: name of a set's folder -> how long it took; those that were there already have none.

    Raises:
        FileNotFoundError, ShardError: a folder has no manifest.json, or one that cannot be read.
    """
    sets = [read(folder, (seconds or {}).get(folder.name)) for folder in folders]
    page.write(render(sets), out / FILE)
    return out / FILE


def render(sets: Sequence[Finished]) -> Html:
    """Return the page."""
    shown = {"Summary": summary(sets)} if len(sets) > 1 else {}
    shown |= {one.name: sections.of_set(one) for one in sets}
    return page.render("Trivium · preparation", headline(sets), shown, footer(sets), STYLE)


def headline(sets: Sequence[Finished]) -> Html:
    """Return the title and a card for each of the figures that matter."""
    kept, dropped = sum(one.kept for one in sets), sum(one.dropped for one in sets)
    num_bytes = sum(one.num_bytes for one in sets)
    shards = sum(len(one.manifest["shards"]) for one in sets)
    share = dropped / max(1, kept + dropped)
    reasons = {reason for one in sets for reason in one.manifest["dropped"]}
    cards = [
        card("samples kept", f"{kept:,}", "", f"in {counted(len(sets), 'set')}", "--right", 1 - share),
        card("dropped", f"{dropped:,}", "", because(share, len(reasons)), "--wrong", share),
        card("shards", *size(num_bytes), counted(shards, "file")),
    ]
    timed = [one.seconds for one in sets if one.seconds is not None]
    if timed:
        rate = sum(one.kept + one.dropped for one in sets if one.seconds is not None) / max(1e-9, sum(timed))
        cards.append(card("time", f"{sum(timed):,.1f}", "s", f"{rate:,.0f} samples a second"))
    about = lead(
        "Look before you train. What is shown was drawn at random from all there is; what is counted is all."
    )
    return join([tag("h1", "What went into the shards"), about, tag("div", cards, class_="cards")])


def because(share: float, reasons: int) -> str:
    """Return what part was dropped, and for how many reasons."""
    return f"{percent(share)}, for {counted(reasons, 'reason')}" if reasons else "nothing was"


def card(
    label: str, value: str, unit: str, note: str, hue: str | None = None, share: float | None = None
) -> Html:
    """Return a headline figure, with a bar where it is a share of something."""
    bar = [] if share is None else tag("div", tag("b", style=f"width:{share * 100:.1f}%"), class_="meter")
    return tag(
        "div",
        tag("div", label, class_="label"),
        tag("div", value, tag("small", unit), class_="figure"),
        bar,
        tag("div", note, class_="note"),
        class_="card",
        style=None if hue is None else f"--hue:var({hue})",
    )


def summary(sets: Sequence[Finished]) -> Html:
    """Return a table with a line for each set."""
    headings = [tag("th", name, class_="number" if name else None) for name in NUMBERS]
    head = tag("thead", tag("tr", tag("th", "set"), tag("th", "members"), headings))
    rows = []
    for one in sets:
        figures = (
            f"{len(one.manifest['shards']):,}",
            f"{one.num_bytes / 1e6:,.1f}",
            "–" if one.seconds is None else f"{one.seconds:,.1f}",
        )
        cells = [tag("td", figure, class_="number") for figure in figures]
        share = one.dropped / max(1, one.kept + one.dropped)
        rows.append(
            tag(
                "tr",
                tag("td", tag("bdi", one.name)),
                tag("td", members(one), class_="small"),
                tag("td", f"{one.kept:,}", class_="number"),
                tag("td", f"{one.dropped:,}", class_="number"),
                tag("td", f"{percent(share)}" if one.dropped else "", class_="small share"),
                cells,
            )
        )
    return tag("div", tag("table", head, tag("tbody", rows)), class_="panel")


def members(one: Finished) -> str:
    """Return how many members of each kind a set has."""
    return " · ".join(f"{suffix} {count:,}" for suffix, count in one.manifest["members"].items())


def footer(sets: Sequence[Finished]) -> Html:
    """Return where the figures come from."""
    entries = [
        tag(
            "div",
            tag("dt", one.name),
            tag("dd", f"{counted(len(one.manifest['shards']), 'shard')}, {members(one)}"),
        )
        for one in sets
    ]
    return tag("footer", tag("dl", entries))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(num_bytes: float) -> tuple[str, str]:
    """Return a number of bytes as three digits or so and a unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return (f"{num_bytes:.3g}", unit)
        num_bytes /= 1000
    return (f"{num_bytes:,.1f}", "TB")
