"""Of the places that each cue may be heard in, those that together cost least and keep the order of the cues."""

from itertools import pairwise

import numpy as np

OVERLAP_PRICE, OVERLAP_FRAMES = 3.0, 10
"""What it costs that a cue begins before the one before it ends, beyond so many frames."""
DISORDER_PRICE = 1000.0
"""What it costs that a cue begins before the one before it begins: more than anything else."""


def in_order(offered: list[list[tuple[int, int, float]]]) -> list[int]:
    """Return for each cue which of its places, (begin, end, price) in frames, is taken (Viterbi 1967).

    Should no choice keep the order, it is broken where that costs least.
    """
    tables = [np.array(places, np.float64).T for places in offered]
    totals, sources = tables[0][2], []
    for before, now in pairwise(tables):
        steps = totals[:, None] + OVERLAP_PRICE * (before[1][:, None] - OVERLAP_FRAMES > now[0])
        steps += DISORDER_PRICE * (before[0][:, None] > now[0])
        sources.append(steps.argmin(axis=0))
        totals = steps.min(axis=0) + now[2]
    taken = [int(totals.argmin())]
    for source in reversed(sources):
        taken.append(int(source[taken[-1]]))
    return taken[::-1]
