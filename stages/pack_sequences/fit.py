"""Best-fit packing: each document goes into the row that it fills best, in the order given."""

from __future__ import annotations

import numpy as np

from stages.artifacts.tables import IntArray


def best_fit(lengths: IntArray, capacity: int) -> tuple[IntArray, IntArray, int]:
    """Row and start of each document, and the number of rows. All lengths must be within 1..capacity.

    Bit c of `free` says that some row has exactly c places left; the lowest bit at or above a length is the best fit.
    """
    free = 0
    rows_with: list[list[int]] = [[] for _ in range(capacity + 1)]
    rows = np.empty(len(lengths), dtype=np.int64)
    starts = np.empty(len(lengths), dtype=np.int64)
    num_rows = 0
    for index, length in enumerate(lengths.tolist()):
        above = free >> length
        if above:
            room = (above & -above).bit_length() - 1 + length
            row = rows_with[room].pop()
            if not rows_with[room]:
                free &= ~(1 << room)
        else:
            room, row = capacity, num_rows
            num_rows += 1
        rows[index] = row
        starts[index] = capacity - room
        left = room - length
        if left:
            rows_with[left].append(row)
            free |= 1 << left
    return rows, starts, num_rows
