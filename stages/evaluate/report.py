"""The report: one HTML file that holds all it shows and opens without a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.evaluate import sections
from stages.evaluate.findings import Findings
from stages.page import page
from stages.page.html import Html, join, tag
from stages.page.pieces import lead, meter, milliseconds, percent

STYLE = Path(__file__).with_name("report.css")


def write(findings: Findings, path: Path) -> None:
    """Write the page, whole or not at all."""
    page.write(render(findings), path)


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
    metrics = findings.metrics
    return page.render("Trivium · evaluation", headline(metrics), shown, footer(metrics), STYLE)


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
