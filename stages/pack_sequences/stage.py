"""Documents -> rows of a fixed length: Tokens + Latents -> Sequences. Deterministic, in numpy, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.folder import Build
from stages.artifacts.latents import Latents, LatentsContent
from stages.artifacts.manifest import check_built_on
from stages.artifacts.sequences import (
    HELDOUT_DOCUMENTS,
    HISTOGRAM,
    REPORT,
    RowTable,
    SequencesContent,
)
from stages.artifacts.tokens import FIXED_ORDER, HELDOUT, IMAGE, TEXT, Marks, Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress
from stages.core.files import write_atomic, write_json, write_jsonl
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed, numpy_generator
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.fit import best_fit
from stages.pack_sequences.layout import Units, drawn, write_rows
from stages.pack_sequences.report import histogram, summary

IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


def run(pack: PackConfig, tokens: Path, latents: Path, build: Build, runtime: Runtime, seed: int) -> None:
    """Split by group, draw the order of each pass, pack, check every row, write both sides, report, seal."""
    source = Tokens.open(tokens)
    stored = Latents.open(latents)
    check_built_on(tokens, source.manifest, "latents", latents, stored.manifest)  # its rows would be other pictures
    facts = stored.content
    patches = _patches(facts, pack.patch_side)
    units, flags, left_out = _units(source, pack, patches)
    if len(units) == 0:
        raise _nothing_fits(source, pack, patches)
    heldout = _heldout(source.array("groups"), flags, pack.heldout_fraction, seed)
    is_heldout = heldout[units.document]
    ids = source.array("ids")
    free_order = (flags[units.document] & FIXED_ORDER) == 0
    packer = _Packer(pack, source.content, patches, ids, free_order, seed)

    passes = []
    for number in range(pack.passes):
        with runtime.interrupts.at_once("nothing to save: packing starts again"):
            passes.append(packer.side(units, np.nonzero(~is_heldout)[0], number, train=True))
        runtime.report(Progress("pack", number + 1, pack.passes, "passes"))
    train = _joined(passes)
    if len(train.ids) == 0:
        why = f"all {len(units)} documents are held out"
        raise TfcliError("no documents to train on", why=why, fix="lower pack.heldout_fraction", code=ExitCode.INPUT)
    with runtime.interrupts.at_once("nothing to save: packing starts again"):
        kept = packer.side(units, np.nonzero(is_heldout)[0], 0, train=False)
        for table in (train, kept):
            check_rows(table, source.content, patches)
    train.write(build.folder / "train")
    kept.write(build.folder / "heldout")
    chosen = np.unique(units.document[is_heldout])
    write_jsonl(build.folder / HELDOUT_DOCUMENTS, ({"document": int(index)} for index in chosen))
    report = summary(train, kept, left_out, units.lengths(patches), pack)
    write_json(build.folder / REPORT, report)
    write_atomic(build.folder / HISTOGRAM, histogram(units.lengths(patches), pack.row_length))
    runtime.report(Note(f"{len(train.ids)} rows, {100 * report['fill']:.2f} % full; {len(kept.ids)} rows held out"))
    build.seal(_content(pack, source.content, facts, train, kept).model_dump(), report)


def _patches(facts: LatentsContent, side: int) -> IntArray:
    """Patches of each grid. Raises TfcliError (USAGE) where a grid does not divide into patches."""
    for grid in facts.grids:
        if grid.height % side or grid.width % side:
            why = f"the latents are {grid.name}"
            raise TfcliError(
                f"pack.patch_side {side} does not fit", why=why, fix="use a divisor of both", code=ExitCode.USAGE
            )
    return np.array([grid.height * grid.width // side**2 for grid in facts.grids], dtype=np.int64)


def _units(source: Tokens, pack: PackConfig, patches: IntArray) -> tuple[Units, IntArray, dict[str, int]]:
    """The units that can be packed; flags by document; how many documents were left out or cut, by reason."""
    offsets, segments = source.array("offsets"), source.array("segments")
    count = source.content.num_documents
    whole = np.ones(count, dtype=bool)
    units = Units(np.arange(count), whole, whole, offsets, segments)
    failed = np.zeros(count, dtype=bool)
    owner = np.repeat(np.arange(count), np.diff(offsets))
    failed[owner[(segments[:, 0] == IMAGE) & (segments[:, 3] == 0)]] = True
    empty = np.diff(offsets) == 0
    too_long = (units.lengths(patches) > pack.row_length) & ~failed
    text_only = np.ones(count, dtype=bool)
    text_only[owner[segments[:, 0] == IMAGE]] = False
    cut = too_long & text_only if pack.too_long == "split" else np.zeros(count, dtype=bool)
    kept = units.take(np.nonzero(~failed & ~too_long & ~empty)[0])
    left_out = {
        "IMAGE_FAILED": int(failed.sum()),
        "EMPTY": int((empty & ~failed).sum()),
        "TOO_LONG": int((too_long & ~cut).sum()),
        "CUT_INTO_PIECES": int(cut.sum()),
    }
    return _with_pieces(kept, units, np.nonzero(cut)[0], pack.row_length), source.array("flags"), left_out


def _with_pieces(kept: Units, units: Units, cut: IntArray, row_length: int) -> Units:
    """Append the pieces of long texts: bos only before the first, eos only behind the last."""
    documents, bos, eos, segments = [], [], [], []
    for index in cut.tolist():
        own = units.segments[units.offsets[index] : units.offsets[index + 1]]
        start, left = int(own[0, 1]), int(own[:, 2].sum())  # the texts of a document lie one behind another
        first = True
        while left > 0:
            last = left + first < row_length  # with room for eos
            # Text that would fill the row to its end leaves one token for a piece of its own, so that eos has a place.
            size = left if last else min(left - 1, row_length - first)
            documents.append(index)
            bos.append(first)
            eos.append(last)
            segments.append((TEXT, start, size, 0))
            start, left, first = start + size, left - size, False
    if not documents:
        return kept
    return Units(
        np.concatenate([kept.document, documents]),
        np.concatenate([kept.bos, bos]),
        np.concatenate([kept.eos, eos]),
        np.concatenate([kept.offsets, kept.offsets[-1] + 1 + np.arange(len(documents))]),
        np.concatenate([kept.segments, np.array(segments, dtype=np.int64)]),
    )


def _heldout(groups: IntArray, flags: IntArray, fraction: float, seed: int) -> BoolArray:
    """Which documents are held out: those whose group's hash with the seed falls below the fraction, and whole groups in
    which the source holds one out. At least one group where the fraction is above 0 and two groups are there."""
    names, group = np.unique(groups, return_inverse=True)
    mixed = names.astype(np.uint64) ^ np.uint64(derive_seed(seed, "heldout"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the mixing steps of SplitMix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    chosen = mixed.astype(np.float64) / 2.0**64 < fraction
    chosen[group[(flags & HELDOUT) != 0]] = True
    if fraction > 0 and not chosen.any() and len(names) > 1:
        chosen[mixed.argmin()] = True
    result: BoolArray = chosen[group]
    return result


@dataclass(frozen=True)
class _Packer:
    """Packs one side of one pass."""

    pack: PackConfig
    marks: Marks
    patches: IntArray
    ids: IntArray
    free_order: BoolArray
    seed: int

    def side(self, units: Units, chosen: IntArray, number: int, *, train: bool) -> RowTable:
        """Draw order and drops of this pass, shuffle, fit into rows. The draw of a unit does not depend on the packing."""
        rng = numpy_generator(self.seed, "pack" if train else "pack heldout", number)
        text_first = rng.random(len(units)) < self.pack.caption_first
        dropped = (rng.random(len(units)) < self.pack.condition_dropout) & text_first & train
        order = chosen[np.argsort(rng.random(len(units))[chosen], kind="stable")]
        part = drawn(units, self.free_order, text_first, dropped).take(order)
        dropped = (dropped & units.pairs() & self.free_order)[order]
        rows, starts, num_rows = best_fit(part.lengths(self.patches), self.pack.row_length)
        return write_rows(
            part, dropped, rows, starts, num_rows, self.pack.row_length, self.patches, self.ids, self.marks
        )


def _joined(tables: list[RowTable]) -> RowTable:
    """Several passes as one table."""
    row, document, image = 0, 0, 0
    documents, images, row_documents, row_images = [], [], [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    for table in tables:
        documents.append(table.documents + np.array([row, 0, 0, 0, 0, 0]))
        images.append(table.images + np.array([row, 0, 0, 0, 0, document]))
        row_documents.append(table.row_documents[1:] + document)
        row_images.append(table.row_images[1:] + image)
        row, document, image = row + len(table.ids), document + len(table.documents), image + len(table.images)
    return RowTable(
        np.concatenate([table.ids for table in tables]),
        np.concatenate(documents),
        np.concatenate(images),
        np.concatenate(row_documents),
        np.concatenate(row_images),
    )


def check_rows(table: RowTable, marks: Marks, patches: IntArray) -> None:
    """Spans lie inside their row and document and are closed by BOI and EOI, counts equal the grid, ids are in range."""
    ids, documents, images = table.ids, table.documents, table.images
    length = ids.shape[1]
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() < marks.vocab_size), "ids out of range"
    assert (documents[:, 1] + documents[:, 2] <= length).all(), "a document crosses the end of its row"
    behind = documents[1:, 0] == documents[:-1, 0]
    assert (documents[1:, 1] >= documents[:-1, 1] + documents[:-1, 2])[behind].all(), "documents overlap"
    assert (images[:, 2] == patches[images[:, 4]]).all(), "patches do not match the grid"
    assert (ids[images[:, 0], images[:, 1] - 1] == marks.boi).all(), "an image without BOI"
    assert (ids[images[:, 0], images[:, 1] + images[:, 2]] == marks.eoi).all(), "an image without EOI"
    assert (ids == marks.boi).sum() == len(images), "BOI without an image"
    owner = documents[images[:, 5]]
    assert (images[:, 1] > owner[:, 1]).all(), "an image before its document"
    assert (images[:, 1] + images[:, 2] < owner[:, 1] + owner[:, 2]).all(), "an image behind its document"


def _content(
    pack: PackConfig, marks: Marks, facts: LatentsContent, train: RowTable, heldout: RowTable
) -> SequencesContent:
    return SequencesContent(
        row_length=pack.row_length,
        patch_side=pack.patch_side,
        **{name: getattr(marks, name) for name in Marks.model_fields},
        latent_channels=facts.latent_channels,
        picture_size=facts.picture_size,
        grids=facts.grids,
        channel_mean=facts.channel_mean,
        channel_std=facts.channel_std,
        num_rows=len(train.ids),
        heldout_rows=len(heldout.ids),
        passes=pack.passes,
    )


def _nothing_fits(source: Tokens, pack: PackConfig, patches: IntArray) -> TfcliError:
    count = source.content.num_documents
    whole = np.ones(count, dtype=bool)
    lengths = Units(np.arange(count), whole, whole, source.array("offsets"), source.array("segments")).lengths(patches)
    shortest = int(lengths.min()) if count else 0
    return TfcliError(
        f"0 of {count:,} documents fit {pack.row_length} elements (shortest {shortest})",
        why="a document is never cut through an image",
        fix=f"set pack.row_length to {shortest} or more, or raise pack.patch_side",
        code=ExitCode.INPUT,
    )
