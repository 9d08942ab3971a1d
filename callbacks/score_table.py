"""ScoreTable: what the last validation counted, as a table on the screen and in the run directory."""

import os
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from modules.metrics.scores import Scores

MAX_ROWS = 40
"""On the screen; the file has all."""


class ScoreTable(Callback):
    """Print the scores when a run has finished, or after `validate`; a finished run keeps them as `report.md`.

    Args:
        scores: returns those of the last validation, None before the first.
    """

    def __init__(self, scores: Callable[[], Scores | None]) -> None:
        self.scores = scores

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores = self.scores()
        if scores is None or trainer.global_step < trainer.max_steps or not trainer.is_global_zero:
            return
        show(scores)
        file = Path(trainer.default_root_dir) / "report.md"
        temporary = file.with_name(f".{file.name}")
        temporary.write_text(markdown(scores), encoding="utf-8")
        os.replace(temporary, file)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores = self.scores()
        if trainer.state.fn == TrainerFn.VALIDATING and scores is not None and trainer.is_global_zero:
            show(scores)


def show(scores: Scores) -> None:
    """Print figures and rows; of very many rows those with the lowest F1."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if scores.rows:
        rows = list(scores.rows.items())
        title = f"{scores.count} {scores.unit}"
        if len(rows) > MAX_ROWS:
            rows = sorted(rows, key=lambda row: row[1]["f1"])[:MAX_ROWS]
            title += f": the {MAX_ROWS} of {len(scores.rows)} with the lowest F1; report.md has all"
        table = Table("", title=title, title_justify="left")
        for column in rows[0][1]:
            table.add_column(column, justify="right")
        for name, row in rows:
            table.add_row(name, *map(written, row.values()))
        console.print(table)
    console.print("   ".join(f"{name} {written(value)}" for name, value in scores.figures.items()))


def markdown(scores: Scores) -> str:
    """Return the scores as a page."""
    lines = [f"# {scores.count} {scores.unit}", "", "| | |", "|---|---:|"]
    lines += [f"| {name} | {written(value)} |" for name, value in scores.figures.items()]
    if scores.rows:
        columns = list(next(iter(scores.rows.values())))
        lines += ["", f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
        for name, row in scores.rows.items():
            cells = " | ".join(map(written, row.values()))
            lines.append(f"| {name.replace('|', chr(92) + '|')} | {cells} |")
    return "\n".join(lines) + "\n"


def written(value: float) -> str:
    """Return a count as it is, anything else to four digits."""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
