"""Documents -> rows of a fixed length: Tokens + Latents -> Sequences. Deterministic, in numpy, without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.context import StageContext
from stages.artifacts.latents import Latents, LatentsContent
from stages.artifacts.manifest import check_built_on
from stages.artifacts.rows import Frames
from stages.artifacts.sequences import (
    FORM,
    HELDOUT_DOCUMENTS,
    HISTOGRAM,
    REPORT,
    REPORT_TEXT,
    RowTable,
    SequencesContent,
    distinct_sizes,
)
from stages.artifacts.tables import BoolArray, IntArray, SegmentTable
from stages.artifacts.tokens import FIXED_ORDER, HELDOUT, IMAGE, NO_LOSS, SpecialTokens, Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress
from stages.core.files import write_atomic, write_json, write_jsonl
from stages.core.runtime import Runtime
from stages.core.seeds import hashed_uniform
from stages.pack_sequences.check import check_rows
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.fit import best_fit
from stages.pack_sequences.layout import Units, ordered, segment_lengths, write_rows
from stages.pack_sequences.lengths import fitting_units, joined_units, shown
from stages.pack_sequences.mix import balanced, copies, document_weights
from stages.pack_sequences.report import histogram, report_text, summary
from stages.pack_sequences.row_length import document_lengths, row_length_for
from stages.pack_sequences.statistics import channel_statistics

Floats = np.ndarray[Any, np.dtype[np.float64]]
_KEPT = "nothing to save: packing starts again"


def run(pack: PackConfig, tokens: Path, latents: Path, context: StageContext) -> None:
    """Split by group, draw the order of each pass, pack, check every row, write both sides, report, seal."""
    build, runtime, seed = context.build, context.runtime, context.seed
    source = Tokens.open(tokens)
    stored = Latents.open(latents)
    check_built_on(tokens, source.manifest, "latents", latents, stored.manifest)  # its rows would be other pictures
    content = stored.content
    frames = _frames(content, pack, source.content)
    _check_segments(source, content)
    derived = None
    if pack.row_length == "auto":
        derived = row_length_for(document_lengths(source, pack, frames))
        runtime.report(Note(derived.text()))
        pack = pack.model_copy(update={"row_length": derived.length})
    flags = source.array("flags")
    free_order = (flags & FIXED_ORDER) == 0
    units, left_out = fitting_units(source, pack, frames, free_order)
    heldout = _heldout(source.array("groups"), flags, units.document, pack.heldout_fraction, seed)[units.document]
    weights = _weights(pack, source, units, heldout, frames)
    packer = _Packer(
        pack=pack,
        special_tokens=source.content,
        mirrors=np.array([-1 if grid.mirror is None else grid.mirror for grid in content.grids]),
        frames=frames,
        ids=source.array("ids"),
        units=units,
        keys=source.array("keys")[units.document],
        free_order=free_order[units.document],
        seed=seed,
    )

    late_weights = _weights(pack, source, units, heldout, frames, late=True) if pack.late_weights else None
    train, late = _packed_passes(packer, weights, late_weights, runtime)
    for table, key in ((train, "pack.weights"), (late, "pack.late_weights")):
        if table is not None and len(table.ids) == 0:
            raise _nothing_to_train_on(units, heldout, left_out, flags, key)
    with runtime.interrupts.at_once(_KEPT):
        kept = packer.heldout(np.nonzero(heldout & ((flags[units.document] & NO_LOSS) == 0))[0])
        for table in (train, kept, *([] if late is None else [late])):
            check_rows(table, source.content, frames)
    train.write(build.folder / "train")
    kept.write(build.folder / "heldout")
    if late is not None:
        late.write(build.folder / "late")
    chosen = np.unique(units.document[heldout])
    write_jsonl(build.folder / HELDOUT_DOCUMENTS, ({"document": int(index)} for index in chosen))
    lengths = units.lengths(frames)
    report = summary(train, kept, late, left_out, lengths, pack, source)
    if derived is not None:
        report["row_length"] = derived.record()
    _write_report(report, lengths, pack.known_row_length, build.folder)
    out = shown(left_out)
    runtime.report(
        Note(
            f"{len(train.ids):,} rows, {100 * report['fill']:.2f} % full, {report['text_to_image']:.3g} text elements per patch; "
            f"{len(kept.ids):,} rows held out" + (f"; documents: {out}" if out else "")
        )
    )
    files = [name for name in FORM.files if late is not None or not name.startswith("late/")]
    statistics = channel_statistics(stored, [train, *([] if late is None else [late])])
    build.seal(_content(pack, source.content, content, statistics, train, kept, late).model_dump(), report, files=files)


def _packed_passes(
    packer: _Packer, weights: Floats, late_weights: Floats | None, runtime: Runtime
) -> tuple[RowTable, RowTable | None]:
    """The training side, and the rows of the late phase where there is one."""
    pack = packer.pack
    of_passes = [weights] * pack.passes
    if late_weights is not None:
        of_passes += [late_weights] * pack.late_passes
    passes = []
    for number, chosen in enumerate(of_passes):
        with runtime.interrupts.at_once(_KEPT):
            passes.append(packer.training(number, chosen))
        runtime.report(Progress("pack", number + 1, len(of_passes), "passes"))
    return _joined(passes[: pack.passes]), None if late_weights is None else _joined(passes[pack.passes :])


def _write_report(report: dict[str, Any], lengths: IntArray, row_length: int, folder: Path) -> None:
    write_json(folder / REPORT, report)
    write_atomic(folder / REPORT_TEXT, report_text(report, lengths, row_length).encode())
    write_atomic(folder / HISTOGRAM, histogram(lengths, row_length))


def _nothing_to_train_on(
    units: Units, heldout: BoolArray, left_out: dict[str, int], flags: IntArray, weights: str
) -> TfcliError:
    """The error where documents can be packed and none of them is for training. weights: the key that chose among the others."""
    packed, held = len(np.unique(units.document)), len(np.unique(units.document[heldout]))
    of_source = bool((flags[units.document] & HELDOUT).all())
    why = f"of {packed:,} documents that can be packed {held:,} are held out"
    if held < packed:
        why += f", and {weights} leaves out the other {packed - held:,}"
    fix = f"raise one of {weights}"
    if held == packed:
        fix = (
            "let the source hold out fewer documents" if of_source else "lower pack.heldout_fraction, or add documents"
        )
    if left_out_too := shown(left_out):
        why += f"; before that: {left_out_too}"
    return TfcliError("no documents to train on", why=why, fix=fix, code=ExitCode.INPUT)


def _check_segments(source: Tokens, latents: LatentsContent) -> None:
    """Raise TfcliError (ARTIFACT) where tokens refer to pictures that the latents do not have."""
    segments = SegmentTable(source.array("segments"))
    images = segments.kind == IMAGE
    rows = np.array([grid.rows for grid in latents.grids])
    grid = np.where(images, segments.grid, 0)
    bad = images & ((grid >= len(rows)) | (segments.latent_row >= rows[np.minimum(grid, len(rows) - 1)]))
    if bad.any():
        why = f"segment {int(np.argmax(bad))} refers to a picture that the latents do not have"
        fix = "run 'tfcli tokenize --force' to make them again"
        raise TfcliError(f"{source.folder}: cannot be used", why=why, fix=fix, code=ExitCode.ARTIFACT)


def _frames(latents: LatentsContent, pack: PackConfig, special_tokens: SpecialTokens) -> Frames:
    """Raises TfcliError (USAGE) where a grid does not divide into patches."""
    side = pack.patch_side
    for grid in latents.grids:
        if grid.height % side or grid.width % side:
            why = f"the latents are {grid.name}"
            raise TfcliError(
                f"pack.patch_side {side} does not fit", why=why, fix="use a divisor of both", code=ExitCode.USAGE
            )
    sizes = distinct_sizes(latents.grids) if pack.size_tokens else []
    return Frames.of(
        latents.grids, side, {size: special_tokens.vocab_size + number for number, size in enumerate(sizes)}
    )


def _heldout(groups: IntArray, flags: IntArray, packed: IntArray, fraction: float, seed: int) -> BoolArray:
    """Which documents are held out: those whose group's hash with the seed falls below the fraction, and whole groups in
    which the source holds one out. Where the fraction is above 0, at least one group of those that have a document among
    the packed ones, if there are two of them."""
    names, group = np.unique(groups, return_inverse=True)
    draws = hashed_uniform(names, seed, "heldout")
    chosen = draws < fraction
    chosen[group[(flags & HELDOUT) != 0]] = True
    filled = np.unique(group[packed])
    if fraction > 0 and not chosen[filled].any() and len(filled) > 1:
        chosen[filled[draws[filled].argmin()]] = True
    result: BoolArray = chosen[group]
    return result


def _weights(
    pack: PackConfig, source: Tokens, units: Units, heldout: BoolArray, frames: Frames, *, late: bool = False
) -> Floats:
    """How often a pass contains each unit, 0 for those that are held out."""
    sources = source.array("sources")[units.document]
    weights = np.where(heldout, 0.0, document_weights(pack, sources, source.content.sources, late=late))
    if pack.text_to_image is None:
        return weights
    own = segment_lengths(units.segments, frames)
    owner = np.repeat(np.arange(len(units)), np.diff(units.offsets))
    segments = SegmentTable(units.segments)
    is_image = segments.kind == IMAGE
    in_images = np.bincount(
        owner[is_image], weights=frames.patches[segments.grid[is_image]], minlength=len(units)
    ).astype(np.int64)
    # what a dropped condition takes away, on average
    droppable = units.pairs() & ((source.array("flags") & FIXED_ORDER) == 0)[units.document]
    text = units.lengths(frames) - in_images
    captions = np.bincount(owner[~is_image], weights=own[~is_image], minlength=len(units))
    text = text - np.where(droppable, captions * pack.caption_first * pack.condition_dropout, 0)
    return balanced(weights, in_images > 0, text, in_images, pack.text_to_image)


@dataclass(frozen=True)
class _Packer:
    """Packs the units of one side in one pass. Every draw belongs to a document (its key), a pass and a copy: it depends
    neither on the other documents nor on the length of rows."""

    pack: PackConfig
    special_tokens: SpecialTokens
    mirrors: IntArray  # of each grid: the grid of the same pictures mirrored, or -1
    frames: Frames
    ids: IntArray
    units: Units
    keys: IntArray  # of each unit's document
    free_order: BoolArray  # of each unit
    seed: int

    def training(self, number: int, weights: Floats) -> RowTable:
        """Pass `number`: draw how often each unit comes, its order and drops, and the order of all; fit into rows."""
        times = copies(weights, self._draws("weight", np.arange(len(self.units)), number))
        parts, dropped, order = [], [], []
        for copy in range(int(times.max(initial=0))):
            chosen = np.nonzero(times > copy)[0]
            text_first = self._draws("order", chosen, number, copy) < self.pack.caption_first
            drop = (self._draws("drop", chosen, number, copy) < self.pack.condition_dropout) & text_first
            one = self.units.take(chosen)
            free = self.free_order[chosen]
            parts.append(self._mirrored(ordered(one, free, text_first, drop), chosen, number, copy))
            dropped.append(drop & one.pairs() & free)
            order.append(self._draws("place", chosen, number, copy))
        if not parts:
            return self._fitted(self.units.take(np.zeros(0, np.int64)), np.zeros(0, bool))
        shuffled = np.argsort(np.concatenate(order), kind="stable")
        return self._fitted(joined_units(parts).take(shuffled), np.concatenate(dropped)[shuffled])

    def heldout(self, chosen: IntArray) -> RowTable:
        """The held-out side: each unit once, nothing dropped."""
        text_first = self._draws("heldout order", chosen) < self.pack.caption_first
        nothing = np.zeros(len(chosen), dtype=bool)
        part = ordered(self.units.take(chosen), self.free_order[chosen], text_first, nothing)
        shuffled = np.argsort(self._draws("heldout place", chosen), kind="stable")
        return self._fitted(part.take(shuffled), nothing)

    def _draws(self, purpose: str, chosen: IntArray, *index: int) -> Floats:
        return hashed_uniform(self.keys[chosen], self.seed, f"pack {purpose}", *index)

    def _mirrored(self, part: Units, chosen: IntArray, number: int, copy: int) -> Units:
        """Half of the images from the grids of mirrored pictures, where there are such."""
        if (self.mirrors < 0).all():
            return part
        keys = np.repeat(self.keys[chosen], np.diff(part.offsets))
        segments = SegmentTable(part.segments.copy())
        images = np.nonzero(segments.kind == IMAGE)[0]
        draws = hashed_uniform(keys[images] + segments.latent_row[images], self.seed, "pack mirror", number, copy)
        flipped = images[draws < 0.5]
        segments.grid[flipped] = self.mirrors[segments.grid[flipped]]
        return replace(part, segments=segments.values)

    def _fitted(self, part: Units, dropped: BoolArray) -> RowTable:
        length = self.pack.known_row_length
        rows, starts, num_rows = best_fit(part.lengths(self.frames), length)
        return write_rows(part, dropped, rows, starts, num_rows, length, self.frames, self.ids, self.special_tokens)


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


def _content(
    pack: PackConfig,
    special_tokens: SpecialTokens,
    latents: LatentsContent,
    statistics: tuple[list[float], list[float]],
    train: RowTable,
    heldout: RowTable,
    late: RowTable | None,
) -> SequencesContent:
    mean, std = statistics
    return SequencesContent(
        row_length=pack.known_row_length,
        patch_side=pack.patch_side,
        **{name: getattr(special_tokens, name) for name in SpecialTokens.model_fields if name != "vocab_size"},
        vocab_size=special_tokens.vocab_size + (len(distinct_sizes(latents.grids)) if pack.size_tokens else 0),
        latent_channels=latents.latent_channels,
        picture_size=latents.picture_size,
        grids=latents.grids,
        channel_mean=mean,
        channel_std=std,
        num_rows=len(train.ids),
        heldout_rows=len(heldout.ids),
        late_rows=0 if late is None else len(late.ids),
        passes=pack.passes,
        size_tokens=pack.size_tokens,
    )
