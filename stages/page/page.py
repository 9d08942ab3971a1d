"""The page around a report: one HTML file that holds all it shows, opens without a network and runs no other script."""

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from stages.page.html import Html, tag

STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))


def write(page: Html, path: Path) -> None:
    """Write a page, whole or not at all; what UTF-8 cannot hold becomes a question mark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def render(title: str, header: Html, sections: Mapping[str, Html], footer: Html, style: Path) -> Html:
    """Return a page.

    Args:
        title: of the window.
        header: what stands above the sections.
        sections: by title; each has a link at the top of the page.
        footer: what stands below them.
        style: CSS of this page's own.
    """
    script = SCRIPT.read_text(encoding="utf-8")
    named = anchors(sections)
    brand = tag("a", logo(), "Trivium", class_="brand", href="#top")
    links = [tag("a", name, href=f"#{anchor}") for anchor, name in named.items()]
    theme = tag("button", "◐", type="button", id="theme", aria_label="Switch between light and dark")
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy(script)}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Html(STYLE.read_text(encoding="utf-8")), Html(style.read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("nav", tag("div", brand, links, theme)),
        tag("header", header, id="top"),
        tag(
            "main",
            [tag("section", tag("h2", name), sections[name], id=anchor) for anchor, name in named.items()],
        ),
        footer,
        tag("script", Html(script)),
    )
    return Html("<!doctype html>\n" + tag("html", head, body, lang="en") + "\n")


def anchors(titles: Iterable[str]) -> dict[str, str]:
    """Return a name to link to for each title: anchor -> title."""
    named: dict[str, str] = {}
    for title in titles:
        anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"
        named[anchor if anchor not in named else f"{anchor}-{len(named)}"] = title
    return named


def policy(script: str) -> str:
    """Return the content policy: nothing from elsewhere, and no script but this one, should escaping ever fail."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def logo() -> Html:
    """Return three roads that meet."""
    roads = {"M3 4 L12 13": "--c1", "M21 4 L12 13": "--c0", "M12 13 V21": "--c2"}
    paths = [tag("path", d=d, stroke=f"var({hue})") for d, hue in roads.items()]
    return tag("svg", paths, viewBox="0 0 24 24", aria_hidden="true")
