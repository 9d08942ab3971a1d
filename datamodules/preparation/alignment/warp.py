"""Dynamic time warping with open ends, row by row, so that only what one cue is sought in is ever in memory.

The same as dtw-python's `dtw(cost, step_pattern=asymmetricP05, open_begin=True, open_end=True)` (Giorgino 2009,
doi:10.18637/jss.v031.i07; the step pattern is Sakoe and Chiba's, 1978, with P = 1/2), but it tells the
path to every end and not to the best alone, in less time and memory. Sound may be from a third to three times as fast
as the query.
"""

from typing import NamedTuple

import numba
import numpy as np

DISALLOWED = 0
"""The step to a cell that no path reaches; the others are numbered as in dtw-python, from 1."""


class Warping(NamedTuple):
    """How a query (rows) fits a reference (columns), for every column that it may end in."""

    distances: np.ndarray
    """(columns,) Mean cost per row of the best path that ends there; infinite if there is none."""
    begins: np.ndarray
    """(columns,) The column that this path begins in; -1 if there is none."""
    steps: np.ndarray
    """(rows + 1, columns) The last step of the best path to each cell."""

    def path(self, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns (cells,) of the best path that ends in column `end`."""
        return trace(self.steps, end)


def warp(cost: np.ndarray) -> Warping:
    """Warp rows onto columns of cost (rows, columns); the columns are open at both ends."""
    return Warping(*accumulate(np.ascontiguousarray(cost, np.float64)))


@numba.njit(cache=True)
def accumulate(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distances, begins and steps of cost (rows, columns)."""
    num_rows, num_columns = cost.shape
    # Row 0 comes before the query: a path may begin anywhere in it, for nothing.
    total = np.zeros((num_rows + 1, num_columns))
    begin = np.zeros((num_rows + 1, num_columns), np.int32)
    steps = np.zeros((num_rows + 1, num_columns), np.uint8)
    for i in range(1, num_rows + 1):
        for j in range(num_columns):
            here = cost[i - 1, j]
            best, step, from_i, from_j, entered = np.inf, 0, 0, 0, j
            if j >= 3:
                price = total[i - 1, j - 3] + (cost[i - 1, j - 2] + cost[i - 1, j - 1] + here) / 3
                if price < best:
                    best, step, from_i, from_j, entered = price, 1, i - 1, j - 3, j - 2
            if j >= 2:
                price = total[i - 1, j - 2] + (cost[i - 1, j - 1] + here) / 2
                if price < best:
                    best, step, from_i, from_j, entered = price, 2, i - 1, j - 2, j - 1
            if j >= 1:
                price = total[i - 1, j - 1] + here
                if price < best:
                    best, step, from_i, from_j, entered = price, 3, i - 1, j - 1, j
                if i >= 2:
                    price = total[i - 2, j - 1] + cost[i - 2, j] + here
                    if price < best:
                        best, step, from_i, from_j, entered = price, 4, i - 2, j - 1, j
                if i >= 3:
                    price = total[i - 3, j - 1] + cost[i - 3, j] + cost[i - 2, j] + here
                    if price < best:
                        best, step, from_i, from_j, entered = price, 5, i - 3, j - 1, j
            total[i, j], steps[i, j] = best, step
            begin[i, j] = -1 if step == 0 else (entered if from_i == 0 else begin[from_i, from_j])
    return total[num_rows] / num_rows, begin[num_rows], steps


def trace(steps: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns (cells,) of the path that the steps to column `end` tell."""
    rows, columns, i, j = [], [], len(steps) - 1, end
    while i > 0 and steps[i, j] != DISALLOWED:
        step = int(steps[i, j])
        num_rows, num_columns = (1, 4 - step) if step <= 3 else (step - 2, 1)
        for back in range(max(num_rows, num_columns)):
            rows.append(i - 1 - (back if num_rows > 1 else 0))
            columns.append(j - (back if num_columns > 1 else 0))
        i, j = i - num_rows, j - num_columns
    return np.array(rows[::-1], np.int64), np.array(columns[::-1], np.int64)
