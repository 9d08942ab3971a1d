"""Measure what was learned, on held-out data: retrieval, zero-shot, answers, subtitles, as figures and a report."""

from stages.cli import command
from stages.evaluate.evaluate import evaluate

if __name__ == "__main__":
    command(evaluate)
