"""The documents of a recipe against what packing does with them, as far as names and sizes tell: before any text is tokenized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stages.doctor.findings import Finding, Sighting, share_text
from stages.sources.document import Document, ImageSegment


@dataclass(frozen=True)
class RowRules:
    """Of the recipe's [pack]. image: the fewest elements that a picture takes, with its marks. truncate: what is too long ends
    with the row. weights: by name of source, first most of the time, then at the end of training."""

    length: int
    image: int
    truncate: bool
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Rows:
    """Takes all documents of the source and of the corpora. A text counts as one element, the least that it can be: what is too
    long by that is too long for certain."""

    def __init__(self, rules: RowRules) -> None:
        self._rules = rules
        self._documents = 0
        self._for_training: dict[str, int] = {}  # documents that fit and are not held out, by source
        self._sources: dict[str, None] = {}
        self._held = 0
        self._too_long = Sighting()
        self._shortest = 0

    def add(self, document: Document, source: str) -> None:
        """Look at one document. source: the name by which packing weighs it."""
        self._documents += 1
        self._sources[source] = None
        least = self._least(document)
        if least > self._rules.length:
            self._too_long.add(document.key)
            self._shortest = min(self._shortest or least, least)
        elif document.heldout:
            self._held += 1
        else:
            self._for_training[source] = self._for_training.get(source, 0) + 1

    def _least(self, document: Document) -> int:
        """The fewest elements in which packing keeps the document; without a picture it is cut into pieces, or one token long."""
        pictures = len(document.images)
        if not pictures:
            return 0
        texts = sum(not isinstance(segment, ImageSegment) and bool(segment.text) for segment in document.segments)
        pair = pictures == 1 and texts == 1 and not document.fixed_order
        if self._rules.truncate and not pair:
            before = isinstance(document.segments[0], ImageSegment)
            return 1 + self._rules.image + (0 if before else 1)
        return 2 + texts + pictures * self._rules.image

    def findings(self) -> Iterator[Finding]:
        """What packing would leave out, and what it would stop at."""
        rules, number = self._rules, self._too_long.number
        for key, given in rules.weights.items():
            for name in given if self._documents else ():
                if name not in self._sources:
                    fix = f"the sources are {', '.join(self._sources)}"
                    yield Finding("WEIGHT_UNKNOWN", "stops", f"pack.{key}: no source {name}", fix)
        fix = f"set pack.row_length to {self._shortest} or more, or raise pack.patch_side"
        if number and number == self._documents:
            what = f"0 of {number:,} documents fit {rules.length} elements (shortest {self._shortest} or more)"
            yield Finding("NOTHING_FITS", "stops", what, fix, number, self._too_long.examples)
        elif number:
            what = (
                f"{share_text(number, self._documents)} documents do not fit {rules.length} elements and are left out"
            )
            yield Finding("TOO_LONG", "problem", what, fix, number, self._too_long.examples)
        if number < self._documents and not self._for_training:
            what = f"no documents to train on: all {self._held:,} that can be packed are held out by the source"
            yield Finding("ALL_HELD_OUT", "stops", what, "let the source hold out fewer documents", self._held)
        yield from self._without_weight()

    def _without_weight(self) -> Iterator[Finding]:
        weights: dict[str, float] = {}
        for key, given in self._rules.weights.items():
            weights |= given
            if self._for_training and given and not any(weights.get(name, 1.0) for name in self._for_training):
                what = f"no documents to train on: pack.{key} leaves out every source"
                yield Finding("NO_WEIGHT", "stops", what, f"raise one of pack.{key}")
