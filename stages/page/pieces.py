"""Small elements that every section of the report uses."""

from collections.abc import Sequence

from stages.page.html import Html, tag


def lead(text: str) -> Html:
    """Return a sentence or two that introduce what follows."""
    return tag("p", text, class_="lead")


def legend(**hues: str) -> Html:
    """Return names with the colour that each has in a chart."""
    chips = [tag("span", name, class_="chip", style=f"--hue:var({hue})") for name, hue in hues.items()]
    return tag("div", chips, class_="key")


def chip(name: str, names: Sequence[str]) -> Html:
    """Return a modality's name with its colour, which is that of its place among all names."""
    return tag("span", name, class_="chip", style=f"--hue:var(--c{names.index(name) % 4})")


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage, with a decimal where it is small."""
    return f"{share * 100:.1f} %" if share < 0.0995 else f"{share * 100:.0f} %"


def milliseconds(value: float) -> str:
    """Return milliseconds, with a decimal where there are few."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def meter(value: float, chance: float, blank: float | None = None) -> Html:
    """Return a bar for a share in [0, 1], with a line at chance and one at the score with blank media."""
    bar = tag("b", style=f"width:{value * 100:.1f}%")
    without = [] if blank is None else tag("i", class_="blank", style=f"left:{blank * 100:.1f}%")
    return tag("div", bar, without, tag("i", style=f"left:{chance * 100:.1f}%"), class_="meter")
