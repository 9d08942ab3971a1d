"""The sections of the report, each from the findings alone; what was not measured gives an empty one."""

from collections.abc import Mapping
from typing import Any

from stages.evaluate import charts, media
from stages.evaluate.answers import Answer
from stages.evaluate.findings import Findings
from stages.evaluate.retrieval import Neighbours
from stages.evaluate.zero_shot import Predictions
from stages.page.charts import lines
from stages.page.html import Html, join, tag
from stages.page.pieces import chip, lead, legend, meter, milliseconds, percent

NOTHING = "(nothing)"


def retrieval(findings: Findings) -> Html:
    """Return the recalls as a table and, by direction, a few queries with what they found."""
    recalls = findings.metrics.get("retrieval")
    if not recalls:
        return Html()
    names = sorted({name.partition("_to_")[0] for name in recalls})
    head = tag("thead", tag("tr", tag("th"), [tag("th", chip(name, names)) for name in names]))
    rows = [
        tag(
            "tr",
            tag("th", chip(asks, names)),
            [recall_cell(recalls.get(f"{asks}_to_{asked}")) for asked in names],
        )
        for asks in names
    ]
    fewest, *_, most = sorted(
        [scores["candidates"] for scores in recalls.values()]
    )  # of two directions or more
    among = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    tabs = []
    for (asks, asked), examples in findings.searches.items():
        found = [search(findings, asks, asked, neighbours) for neighbours in examples]
        title = f"{asks} → {asked}"
        tabs.append(tag("div", tag("h3", title), tag("div", found, class_="panel"), data_tab=title))
    return join(
        [
            lead(
                f"A query of one modality (row) looks for what belongs to it among {among} different things of another "
                "(column). Large: how often that is the nearest; small: among the nearest five. "
                f"Chance is {percent(1 / most)}{'' if fewest == most else ' or more'}."
            ),
            tag("div", tag("table", head, tag("tbody", rows), class_="space"), class_="panel"),
            lead("The same queries in every direction, drawn at random; the right answer is marked."),
            tag("div", tabs, data_tabs="true"),
        ]
    )


def recall_cell(scores: Mapping[str, float] | None) -> Html:
    """Return one cell of the table of recalls."""
    if scores is None:
        return tag("td", tag("div", "–", class_="cell none"))
    nearest, five = percent(scores["recall_at_1"]), percent(scores["recall_at_5"])
    share = f"--share:{scores['recall_at_1']:.3f}"
    return tag(
        "td", tag("div", tag("b", nearest), tag("span", f"{five} in five"), class_="cell", style=share)
    )


def search(findings: Findings, asks: str, asked: str, neighbours: Neighbours) -> Html:
    """Return one query and what it found."""
    found = []
    for rank, (key, similarity) in enumerate(
        zip(neighbours.nearest, neighbours.similarities, strict=True), start=1
    ):
        shown = media.show(findings.found[key], findings.members[asked])
        note = tag("span", f"{rank} · {similarity:.2f}", class_="small")
        found.append(tag("li", shown, note, class_="own" if key == neighbours.query else None))
    place = "found first" if neighbours.place == 1 else f"its own at place {neighbours.place}"
    query = media.show(findings.found[neighbours.query], findings.members[asks])
    left = tag("div", tag("span", place, class_="small"), query, class_="query")
    return tag("div", left, tag("ol", found, class_="found"), class_="search")


def zero_shot(findings: Findings) -> Html:
    """Return a confusion matrix for each set that was classified."""
    panels = []
    for number, (name, predictions) in enumerate(findings.zero_shot.items()):
        scores = predictions.scores()
        title = tag("h3", f"{name} · {percent(scores['accuracy'])} of {scores['count']}")
        hue = f"--hue:var(--c{2 - number % 3})"
        panels.append(tag("div", title, confusion(predictions), class_="panel", style=hue))
    if not panels:
        return Html()
    about = (
        "Each class is described in words, such as “a red seven”, and the nearest description wins. "
        "Rows are what is there, columns what was told."
    )
    return join([lead(about), tag("div", panels, class_="split")])


def confusion(predictions: Predictions) -> Html:
    """Return a confusion matrix; shades are shares of the row."""
    rows = []
    for name, counts in zip(predictions.classes, predictions.confusion(), strict=True):
        shares = [count / max(1, sum(counts)) for count in counts]
        cells = [
            tag("td", str(count or ""), class_="dark" if share > 0.5 else None, style=f"--share:{share:.3f}")
            for count, share in zip(counts, shares, strict=True)
        ]
        rows.append(tag("tr", tag("th", name), cells))
    head = tag("thead", tag("tr", tag("th"), [tag("th", name) for name in predictions.classes]))
    return tag("table", head, tag("tbody", rows), class_="confusion")


def answers(findings: Findings) -> Html:
    """Return the scores of each task, and some answers with what they are about."""
    scores = findings.metrics.get("instruct")
    if not scores:
        return Html()
    titles = ("exact", "blank media", "chance", "asked")
    columns = [tag("th", title, class_="number") for title in titles]
    head = tag("thead", tag("tr", tag("th", "question"), tag("th"), columns))
    rows = [task_row(task, found) for task, found in {**scores["per_task"], "all": scores}.items()]
    kinds = []
    for task in scores["per_task"]:
        shown = [answer(one, findings) for one in findings.answers if one.task == task]
        kinds.append(
            join([tag("h3", task.replace("_", " "), class_="kind"), tag("div", shown, class_="answers")])
        )
    return join(
        [
            lead(
                "Exact match of answers about held-out media. The red line is the same model shown a gray picture and "
                "silence; the other line is always giving the most frequent answer of that kind."
            ),
            tag("div", tag("table", head, tag("tbody", rows)), class_="panel"),
            notes(findings.metrics),
            lead(
                "Answers drawn at random. The second picture shows where the first word of the answer looks: attention "
                "of the question's last token over the picture, averaged over heads and layers."
            ),
            kinds,
        ]
    )


def task_row(task: str, scores: Mapping[str, float]) -> Html:
    """Return one line of the table of tasks."""
    blank = scores.get("blank", scores.get("blank_media", 0.0))
    bar = tag("td", meter(scores["exact_match"], scores["chance"], blank), style="width:38%;--hue:var(--c0)")
    figures = (
        percent(scores["exact_match"]),
        percent(blank),
        percent(scores["chance"]),
        f"{scores['count']:,}",
    )
    return tag(
        "tr",
        tag("td", task.replace("_", " ")),
        bar,
        [tag("td", figure, class_="number") for figure in figures],
    )


def notes(metrics: Mapping[str, Any]) -> Html:
    """Return what else is known of the answers: descriptions, and other models."""
    sentences = []
    if found := metrics.get("descriptions"):
        scores = f"BLEU {found['bleu']:.3f}, ROUGE-1 {found['rouge1']:.3f}, ROUGE-L {found['rougeL']:.3f}"
        sentences.append(f"{found['count']} descriptions against their references: {scores}.")
    for name, score in metrics["instruct"].get("baselines", {}).items():
        sentences.append(f"Exact match of the baseline “{name}”: {percent(score)}.")
    return tag("p", " ".join(sentences), class_="small")


def answer(one: Answer, findings: Findings) -> Html:
    """Return one answer with its media, question and what was expected."""
    sample = findings.asked[one.key]
    overlays = [[], [media.heat(findings.looks[one.key])]] if one.key in findings.looks else [[]]
    seen = [
        media.picture(sample[suffix], mime, *overlay)
        for suffix, mime in media.PICTURES.items()
        if suffix in sample
        for overlay in overlays
    ]
    heard = [media.player(sample[suffix], mime) for suffix, mime in media.SOUNDS.items() if suffix in sample]
    others = set(findings.asked_about) & set(sample) - set(media.PICTURES) - set(media.SOUNDS)
    blind = f"with blank media: {findings.blind[one.key] or NOTHING}"
    verdict = [blind] if one.is_right else [f"expected: {one.expected}", tag("br"), blind]
    return tag(
        "div",
        tag("div", seen, class_="seen"),
        heard,
        [media.show(sample, [suffix]) for suffix in sorted(others)],
        tag("p", one.question, class_="question"),
        tag("p", one.said or NOTHING, class_="said"),
        tag("div", verdict, class_="verdict"),
        class_="answer right" if one.is_right else "answer wrong",
    )


def subtitles(findings: Findings) -> Html:
    """Return the errors of every clip's cues before and after alignment."""
    scores = findings.metrics.get("alignment_ms")
    if not scores:
        return Html()
    about = (
        "Subtitles drift against the speech; dynamic time warping puts them back. The median error falls from "
        f"{milliseconds(scores['before'])} ms to {milliseconds(scores['median'])} ms; 95 % of the cues are within "
        f"{milliseconds(scores['p95'])} ms. "
        "A dot is a cue."
    )
    chart = charts.errors(findings.clips, title="Errors of subtitle cues before and after alignment")
    return join([lead(about), tag("div", legend(before="--soft", after="--c2"), chart, class_="panel")])


def training(findings: Findings) -> Html:
    """Return the losses of every run, over its steps, and the values they end at."""
    figures = []
    for name, curves in findings.curves.items():
        if not curves:
            continue
        last = [f"{curve[-1][1]:.2f}" for curve in curves.values()]
        ends = [tag("span", value, class_=f"end c{number}") for number, value in enumerate(last)]
        title = tag("h3", name, tag("span", ends, class_="ends"))
        figures.append(tag("div", title, lines(curves, title=f"Losses of {name}"), class_="card"))
    if not figures:
        return Html()
    key = legend(**{"training, smoothed": "--c1", "validation": "--c0"})
    about = lead("Loss over optimiser steps, from the logs of each run.")
    return join([about, key, tag("div", figures, class_="curves")])


def configs(findings: Findings) -> Html:
    """Return the config of every run, folded."""
    folds = [
        tag("details", tag("summary", name), tag("pre", text))
        for name, text in findings.configs.items()
        if text
    ]
    if not folds:
        return Html()
    return join([lead("What each run was asked for, as resolved."), tag("div", folds, class_="panel")])
