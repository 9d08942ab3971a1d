"""The report: one HTML file that holds all it shows and opens without a network."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.evaluate import sections
from stages.evaluate.findings import Findings
from stages.evaluate.html import Html, join, tag
from stages.evaluate.pieces import lead, meter, milliseconds, percent

STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("report.css", "report.js"))
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write(findings: Findings, path: Path) -> None:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(render(findings), encoding="utf-8")
    os.replace(temporary, path)


def render(findings: Findings) -> Html:
    """Return the page."""
    bodies = {
        "Retrieval": sections.retrieval(findings),
        "Zero-shot": sections.zero_shot(findings),
        "Answers": sections.answers(findings),
        "Subtitles": sections.subtitles(findings),
        "Training": sections.training(findings),
        "Configs": sections.configs(findings),
    }
    shown = {title: body for title, body in bodies.items() if body}
    brand = tag("a", logo(), "Trivium", class_="brand", href="#top")
    links = [tag("a", title, href=f"#{title.lower()}") for title in shown]
    theme = tag("button", "◐", type="button", id="theme", aria_label="Switch between light and dark")
    head = tag(
        "head",
        Html(f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", "Trivium · evaluation"),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("nav", tag("div", brand, links, theme)),
        tag("header", headline(findings.metrics), id="top"),
        tag("main", [tag("section", tag("h2", title), shown[title], id=title.lower()) for title in shown]),
        footer(findings.metrics),
        tag("script", Html(SCRIPT.read_text(encoding="utf-8"))),
    )
    return Html("<!doctype html>\n" + tag("html", head, body, lang="en") + "\n")


def headline(metrics: Mapping[str, Any]) -> Html:
    """Return the title and one card for each thing measured, against chance."""
    cards = []
    recalls = metrics.get("retrieval", {})
    for name, scores in recalls.items():
        first, _, second = name.partition("_to_")
        if first < second:
            recall = (scores["recall_at_1"] + recalls[f"{second}_to_{first}"]["recall_at_1"]) / 2
            note = f"Recall@1 among {scores['candidates']}"
            cards.append(card(f"{first} ↔ {second}", recall, scores["chance"], note, hue="--c1"))
    for name, scores in metrics.get("zero_shot", {}).items():
        note = f"accuracy among {scores['candidates']} classes"
        cards.append(card(f"zero-shot {name}", scores["accuracy"], scores["chance"], note, hue="--c2"))
    if scores := metrics.get("instruct"):
        note = f"exact match · blank media {percent(scores['blank_media'])}"
        cards.append(card("answers", scores["exact_match"], scores["chance"], note, hue="--c0"))
    if scores := metrics.get("alignment_ms"):
        figure = tag("div", milliseconds(scores["median"]), tag("small", "ms"), class_="figure")
        note = tag(
            "div", f"median error · {milliseconds(scores['before'])} ms before alignment", class_="note"
        )
        cards.append(tag("div", tag("div", "subtitles", class_="label"), figure, note, class_="card"))
    title = tag("h1", "What the model learned")
    about = lead("Measured on held-out data. The line across a bar is chance.")
    return join([title, about, tag("div", cards, class_="cards")])


def card(label: str, value: float, chance: float, note: str, *, hue: str) -> Html:
    """Return a headline figure, a share in [0, 1], with its bar and chance."""
    return tag(
        "div",
        tag("div", label, class_="label"),
        tag("div", f"{value * 100:.1f}", tag("small", "%"), class_="figure"),
        meter(value, chance),
        tag("div", f"{note} · chance {percent(chance)}", class_="note"),
        class_="card",
        style=f"--hue:var({hue})",
    )


def footer(metrics: Mapping[str, Any]) -> Html:
    """Return versions, seed, seconds and memory."""
    about = {
        **metrics["versions"],
        "seed": metrics["seed"],
        "seconds": f"{metrics['seconds']:.0f}",
        "peak memory": f"{metrics['peak_memory_bytes'] / 2**30:.2f} GiB",
    }
    entries = [tag("div", tag("dt", name), tag("dd", str(value))) for name, value in about.items()]
    return tag("footer", tag("dl", entries))


def logo() -> Html:
    """Return three roads that meet."""
    roads = {"M3 4 L12 13": "--c1", "M21 4 L12 13": "--c0", "M12 13 V21": "--c2"}
    paths = [tag("path", d=d, stroke=f"var({hue})") for d, hue in roads.items()]
    return tag("svg", paths, viewBox="0 0 24 24", aria_hidden="true")
