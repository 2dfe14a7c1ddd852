"""A text that is cut keeps every token, one bos and one eos, whatever its length."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.artifacts.rows import Frames
from stages.pack_sequences.layout import Units
from stages.pack_sequences.lengths import _pieces

NO_PATCHES = Frames(np.array([4]))


@given(st.integers(0, 500), st.integers(16, 40))
@example(15, 16)  # one token too long for bos and eos
@example(31, 16)  # bos, then two rows filled to the end
@settings(deadline=None)
def test_pieces_hold_all_tokens_and_both_ends(more: int, row_length: int) -> None:
    length = row_length - 1 + more  # the shortest text that does not fit with bos and eos
    whole = Units(
        np.array([0]),
        np.array([True]),
        np.array([True]),
        np.array([0, 1]),
        np.array([[0, 7, length, 0]], dtype=np.int64),
    )
    pieces = _pieces(whole, np.array([0]), row_length)
    assert (pieces.lengths(NO_PATCHES) <= row_length).all()
    assert (pieces.segments[:, 2] > 0).all()
    covered = np.concatenate([np.arange(start, start + size) for _, start, size, _ in pieces.segments])
    assert covered.tolist() == list(range(7, 7 + length))
    assert pieces.bos.tolist() == [True] + [False] * (len(pieces) - 1)
    assert pieces.eos.tolist() == [False] * (len(pieces) - 1) + [True]
