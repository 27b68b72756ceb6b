"""Optimal one-to-one assignment (Hungarian matching) of small score matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FREE = -1


def best_assignment(scores: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of a row and a column, each used at most once, with the largest sum of scores.

    Shortest augmenting paths on reduced costs (Crouse, IEEE Transactions on Aerospace and Electronic Systems 52, 2016).
    Where several assignments are best, it is the one that SciPy's `linear_sum_assignment` takes, and with it the DAVIS
    evaluation: equal columns are looked at in SciPy's order.

    Args:
        scores: (R, C), finite.

    Returns:
        Rows (N,) in ascending order and the column (N,) of each, N = min(R, C).
    """
    if scores.shape[0] > scores.shape[1]:
        columns, rows = best_assignment(scores.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    cost = -np.asarray(scores, dtype=np.float64)
    count, width = cost.shape
    row_price, column_price = np.zeros(count), np.zeros(width)
    column_of, row_of = np.full(count, _FREE), np.full(width, _FREE)
    for start in range(count):
        distance, previous = np.full(width, np.inf), np.full(width, _FREE)
        scanned = np.zeros(width, dtype=np.bool_)
        remaining = list(range(width))[::-1]
        row, reached = start, 0.0
        while True:
            through = reached + cost[row] - row_price[row] - column_price
            closer = ~scanned & (through < distance)
            distance[closer], previous[closer] = through[closer], row
            place = _nearest(distance[remaining], row_of[remaining])
            column = remaining[place]
            reached = distance[column]
            if row_of[column] == _FREE:
                break
            scanned[column] = True
            remaining[place] = remaining[-1]
            remaining.pop()
            row = row_of[column]
        loss = reached - distance[scanned]
        row_price[start] += reached
        row_price[row_of[scanned]] += loss
        column_price[scanned] -= loss
        while column != _FREE:  # every row on the path moves over to its new column, from the end to `start`
            row = previous[column]
            row_of[column] = row
            column_of[row], column = column, column_of[row]
    return np.arange(count), column_of


def _nearest(distance: NDArray[np.float64], row_of: NDArray[np.intp]) -> int:
    """The place of least distance; among equals the last without a row, or if all have one, the first."""
    nearest = np.flatnonzero(distance == distance.min())
    free = nearest[row_of[nearest] == _FREE]
    return int(free[-1] if free.size else nearest[0])
