"""Which documents can be packed, and what is done with those that are longer than a row."""

from __future__ import annotations

import numpy as np

from stages.artifacts.rows import Frames
from stages.artifacts.tables import BoolArray, IntArray, SegmentTable
from stages.artifacts.tokens import IMAGE, TEXT, Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.layout import Units, segment_lengths


def fitting_units(
    source: Tokens, pack: PackConfig, frames: Frames, free_order: BoolArray
) -> tuple[Units, dict[str, int]]:
    """The units that can be packed; how many documents were left out or cut, by reason. free_order: of each document.

    Raises TfcliError (INPUT) where nothing fits.
    """
    count = source.content.num_documents
    whole = np.ones(count, dtype=bool)
    units = Units(np.arange(count), whole, whole, source.array("offsets"), source.array("segments"))
    owner = np.repeat(np.arange(count), np.diff(units.offsets))
    kinds = SegmentTable(units.segments).kind
    failed = np.zeros(count, dtype=bool)
    failed[owner[(kinds == IMAGE) & (SegmentTable(units.segments).ok == 0)]] = True
    empty = np.diff(units.offsets) == 0
    lengths = units.lengths(frames)
    too_long = (lengths > pack.known_row_length) & ~failed
    text_only = np.ones(count, dtype=bool)
    text_only[owner[kinds == IMAGE]] = False
    cut = too_long & text_only & (pack.too_long_text == "split")
    shorter = too_long & ~text_only & (pack.too_long_documents == "truncate")
    kept = units.take(np.nonzero(~failed & ~too_long & ~empty)[0])
    truncated = _truncated(units.take(np.nonzero(shorter)[0]), free_order, pack.known_row_length, frames)
    found = joined_units([kept, truncated, _pieces(units, np.nonzero(cut)[0], pack.known_row_length)])
    left_out = {
        "IMAGE_FAILED": int(failed.sum()),
        "EMPTY": int((empty & ~failed).sum()),
        "TOO_LONG": int((too_long & ~cut).sum()) - len(truncated),
        "CUT_INTO_PIECES": int(cut.sum()),
        "TRUNCATED": len(truncated),
    }
    if len(found) == 0:
        raise _nothing_fits(left_out, lengths[too_long], count, pack)
    return found, left_out


def shown(left_out: dict[str, int]) -> str:
    """What was left out or cut, by reason: `3 TOO_LONG, 1 EMPTY`."""
    return ", ".join(f"{number:,} {reason}" for reason, number in left_out.items() if number)


def _nothing_fits(left_out: dict[str, int], too_long: IntArray, count: int, pack: PackConfig) -> TfcliError:
    """The error where no document can be packed: why each was left out, and what fixes the most of them."""
    shortest = int(too_long.min()) if len(too_long) else 0
    most = max(left_out, key=lambda reason: left_out[reason])
    what = f"0 of {count:,} documents can be packed"
    if left_out["TOO_LONG"]:
        what = f"0 of {count:,} documents fit {pack.known_row_length} elements (shortest {shortest})"
    fixes = {
        "TOO_LONG": f"set pack.row_length to {shortest} or more, or raise pack.patch_side",
        "IMAGE_FAILED": "replace the pictures that could not be encoded ('tfcli inspect' of the latents names them)",
        "EMPTY": "give the documents text or pictures",
    }
    whole = "; a document is never cut through an image" if left_out["TOO_LONG"] else ""
    return TfcliError(
        what,
        why=f"left out: {shown(left_out)}{whole}" if count else "there is no document",
        fix=fixes[most] if count else "see what 'tfcli doctor' says of the source",
        code=ExitCode.INPUT,
    )


def _truncated(units: Units, free_order: BoolArray, row_length: int, frames: Frames) -> Units:
    """Documents with images up to where the row ends, without eos; those in which then is no image are left out. The caption
    of a pair of free order is cut instead, and the pair stays whole."""
    pairs = units.pairs() & free_order[units.document]
    documents, eos, offsets, segments = [], [], [0], []
    for index in range(len(units)):
        own = units.segments[units.offsets[index] : units.offsets[index + 1]].copy()
        table, sizes = SegmentTable(own), segment_lengths(own, frames)
        if pairs[index]:
            room = row_length - 2 - int(sizes[table.kind == IMAGE].sum())
            table.length[table.kind == TEXT] = room
            if room < 1:
                continue
        else:
            before = np.concatenate([[0], np.cumsum(sizes)])
            last = int(np.searchsorted(before, row_length - 1, side="right")) - 1  # segments that fit after bos
            room = row_length - 1 - int(before[last])
            if room > 0 and table.kind[last] == TEXT:
                table.length[last] = room
                last += 1
            own = own[:last]
            if not (SegmentTable(own).kind == IMAGE).any():
                continue
        documents.append(int(units.document[index]))
        eos.append(bool(pairs[index]))
        offsets.append(offsets[-1] + len(own))
        segments.append(own)
    return Units(
        np.array(documents, dtype=np.int64),
        np.ones(len(documents), dtype=bool),
        np.array(eos, dtype=bool),
        np.array(offsets, dtype=np.int64),
        np.concatenate([np.zeros((0, 4), dtype=np.int64), *segments]),
    )


def _pieces(units: Units, cut: IntArray, row_length: int) -> Units:
    """The pieces of long texts: bos only before the first, eos only after the last."""
    documents, bos, eos, segments = [], [], [], []
    for index in cut.tolist():
        own = SegmentTable(units.segments[units.offsets[index] : units.offsets[index + 1]])
        start, left = int(own.start[0]), int(own.length.sum())  # the texts of a document follow one another
        first = True
        while left > 0:
            last = left + first < row_length  # with room for eos
            # Text that would fill the row to its end leaves one token for a piece of its own, so that there is room for eos.
            size = left if last else min(left - 1, row_length - first)
            documents.append(index)
            bos.append(first)
            eos.append(last)
            segments.append((TEXT, start, size, 0))
            start, left, first = start + size, left - size, False
    return Units(
        np.array(documents, dtype=np.int64),
        np.array(bos, dtype=bool),
        np.array(eos, dtype=bool),
        np.arange(len(documents) + 1),
        np.array(segments, dtype=np.int64).reshape(-1, 4),
    )


def joined_units(parts: list[Units]) -> Units:
    """The units of all parts, one part after another."""
    starts = np.cumsum([0, *(len(part.segments) for part in parts)])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return Units(
        np.concatenate([part.document for part in parts]),
        np.concatenate([part.bos for part in parts]),
        np.concatenate([part.eos for part in parts]),
        np.concatenate([*offsets, starts[-1:]]),
        np.concatenate([part.segments for part in parts]),
    )
