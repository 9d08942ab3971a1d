"""A clip's alignment as a picture: how loud it is, its cues before and after, and what is left of the error."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from datamodules.preparation.alignment.features import SAMPLING_RATE

NUM_POINTS = 600
WIDTH, HEIGHT, MARGIN = 900, 260, 40
LANES = {"before": (70, "#9aa0a6"), "after": (108, "#1a73e8")}
"""Where the cues' boxes are, and their colour."""
LANE_HEIGHT, LOUD_TOP, LOUD_HEIGHT = 26, 142, 40
DOTS_MIDDLE, DOTS_HEIGHT = 220, 30
LEAST_SCALE_MS = 20.0


def loudness_curve(sound: np.ndarray) -> dict[str, Any]:
    """Return how loud sound (samples,), 16 kHz, is: `seconds`, and over them `curve`, at most 600 of 0 to 99."""
    size = max(1, -(-len(sound) // NUM_POINTS))
    power = np.array(
        [np.mean(np.square(sound[first : first + size])) for first in range(0, len(sound), size)]
    )
    level_db = 10 * np.log10(power + 1e-10)
    low, high = np.quantile(level_db, (0.02, 1.0)) if len(level_db) else (0.0, 1.0)
    curve = 99 * np.clip((level_db - low) / max(float(high - low), 1e-3), 0, 1)
    return {"seconds": round(len(sound) / SAMPLING_RATE, 3), "curve": np.rint(curve).astype(int).tolist()}


def plot_alignment(clip: Mapping[str, Any]) -> str:
    """Return a picture of one clip of `alignment.json` as SVG, with nothing loaded from elsewhere.

    Above the cues as the subtitles have them, below as they were found, over how loud the sound is. The dots are each
    cue's error, or its residual where the right time is not known, over time. `loudness` may be missing.
    """
    cues = clip["cues"]
    ends = [cue[name] for cue in cues for name in ("before_end_s", "after_end_s")]
    seconds = max([clip.get("loudness", {}).get("seconds", 0.0), *ends, 1e-3])
    scale = (WIDTH - 2 * MARGIN) / seconds
    left = [
        1000 * (cue["after_s"] - cue["true_s"]) if "true_s" in cue else cue["residual_ms"] for cue in cues
    ]
    most_ms = max([LEAST_SCALE_MS, *map(abs, left)])
    drawn = [title(clip), *loudness(clip, scale)]
    for moment, (top, colour) in LANES.items():
        drawn += [label(top + LANE_HEIGHT / 2, moment)]
        drawn += [
            box(cue[f"{moment}_s"], cue[f"{moment}_end_s"], top, colour, cue["text"], scale) for cue in cues
        ]
    drawn.append(line(DOTS_MIDDLE))
    drawn += [label(DOTS_MIDDLE - DOTS_HEIGHT, f"{most_ms:.0f} ms"), label(DOTS_MIDDLE, "0")]
    drawn += [
        f'<circle cx="{MARGIN + cue["after_s"] * scale:.1f}" cy="{DOTS_MIDDLE - error / most_ms * DOTS_HEIGHT:.1f}" '
        f'r="3" fill="#d93025"><title>{error:+.1f} ms</title></circle>'
        for cue, error in zip(cues, left, strict=True)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
    return f'{head}font-family="sans-serif" font-size="11">{"".join(drawn)}</svg>'


def title(clip: Mapping[str, Any]) -> str:
    """Return the words above: the clip's name and its line."""
    line = f"offset {clip['offset_s']:+.3f} s, rate {clip['rate']:.5f}, residual {clip['residual_ms']} ms"
    told = f"{clip['name']}: {line}"
    return f'<text x="{MARGIN}" y="24" font-size="14">{plain(told)}</text>'


def loudness(clip: Mapping[str, Any], scale: float) -> list[str]:
    """Return how loud the sound is, as one area."""
    curve, seconds = (clip.get("loudness", {}).get(key) for key in ("curve", "seconds"))
    if not curve:
        return []
    bottom, step = LOUD_TOP + LOUD_HEIGHT, seconds * scale / len(curve)
    points = [
        f"{MARGIN + index * step:.1f},{bottom - LOUD_HEIGHT * one / 99:.1f}"
        for index, one in enumerate(curve)
    ]
    corners = [f"{MARGIN},{bottom}", *points, f"{MARGIN + seconds * scale:.1f},{bottom}"]
    return [f'<polygon points="{" ".join(corners)}" fill="#dadce0"/>']


def box(start_s: float, end_s: float, top: float, colour: str, text: str, scale: float) -> str:
    """Return a cue, whose text shows under the pointer."""
    return (
        f'<rect x="{MARGIN + start_s * scale:.1f}" y="{top}" width="{max(1.0, (end_s - start_s) * scale):.1f}" '
        f'height="{LANE_HEIGHT}" fill="{colour}" fill-opacity="0.7"><title>{plain(text)}</title></rect>'
    )


def plain(text: str) -> str:
    """Return text as SVG may hold it: strangers wrote it, and control characters are not allowed."""
    return escape("".join(character for character in text if character.isprintable()))


def label(middle: float, text: str) -> str:
    """Return words at the left edge."""
    return f'<text x="2" y="{middle + 4:.1f}" fill="#5f6368">{plain(text)}</text>'


def line(middle: float) -> str:
    """Return a line across."""
    return f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{middle}" y2="{middle}" stroke="#dadce0"/>'
