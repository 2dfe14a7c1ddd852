"""A source before a long run: reads all its texts and a sample of its pictures, makes a list of findings. No torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from stages.coders.config import Images
from stages.core.errors import TfcliError
from stages.core.events import Note, Progress
from stages.core.runtime import Runtime
from stages.doctor.alphabet import Alphabet
from stages.doctor.findings import Finding, Sighting, by_gravity, share_text
from stages.doctor.folders import folder_findings
from stages.doctor.pictures import SeenPicture, findings_about, look, size_table
from stages.doctor.rows import Rows
from stages.doctor.texts import TextTally
from stages.sources.decoding import PictureReader
from stages.sources.document import Document, ImageSegment, Omission, Source, TextSegment
from stages.sources.failures import Failures
from stages.sources.folder import Folder
from stages.sources.mix import Mix
from stages.sources.reasons import FIXES

# Omissions that say nothing about the data: what they are about was never meant to be read.
_QUIET = ("IGNORED_MEMBERS",)


@dataclass(frozen=True)
class Checkup:
    """documents, pictures, omitted: of the whole source. looked_at, good: pictures of the sample. latent_bytes: of all
    pictures, None where the size of a latent is not known yet."""

    describe: str
    documents: int
    pictures: int
    omitted: int
    looked_at: int
    good: int
    formats: dict[str, int]
    sizes: list[tuple[str, int]]
    median_text: int
    longest_text: int
    latent_bytes: int | None
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether a run would go through with at least one document."""
        return self.documents > 0 and not any(finding.gravity == "stops" for finding in self.findings)


class Spread:
    """Evenly spread items of a stream of unknown length: every k-th, k doubling as it grows. Keeps at most 2 * limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._every = 1
        self._index = 0
        self._kept: list[Document] = []

    def add(self, item: Document) -> None:
        """Take the next item into account."""
        if self._index % self._every == 0:
            self._kept.append(item)
            if len(self._kept) > 2 * self._limit:
                self._kept = self._kept[::2]
                self._every *= 2
        self._index += 1

    def items(self) -> list[Document]:
        """At most `limit` of them, from the first to nearly the last."""
        count = len(self._kept)
        if count <= self._limit:
            return self._kept
        return [self._kept[index * count // self._limit] for index in range(self._limit)]


@dataclass
class _Listing:
    """What one pass over the documents gives."""

    tally: TextTally
    sample: Spread
    pictures: int
    omitted: defaultdict[str, Sighting]
    error: TfcliError | None = None

    @property
    def complete(self) -> bool:
        """Whether the sample has all pictures."""
        return sum(len(document.images) for document in self.sample.items()) == self.pictures


@dataclass(frozen=True)
class Limits:
    """What encoding stops at: see EncodeConfig."""

    max_bad: float
    bad_window: int = 1000
    shard_rows: int = 1024


def check_source(
    source: Source,
    images: Images,
    *,
    limits: Limits,
    latent_row_bytes: int | None,
    limit: int,
    runtime: Runtime,
    corpus: bool = False,
    alphabet: Alphabet | None = None,
    rows: Rows | None = None,
) -> Checkup:
    """Look at a source as a run would read it. A source that cannot be read is a finding, not an error. limits and
    latent_row_bytes (of a picture, None: unknown): of the recipe. corpus: it is there for its text alone. alphabet: takes
    all texts. rows: takes all documents."""
    own = [item for item in _parts(source) if isinstance(item, Folder)]
    findings = [finding for folder in own for finding in folder_findings(folder)]
    name = str(getattr(source, "name", "")) if corpus else ""  # by which packing weighs its documents
    listing = _list(source, limit, runtime, alphabet, rows, name)
    if listing.error is not None:
        if not any(finding.gravity == "stops" for finding in findings):
            error = listing.error
            reason = f"{error.what} ({error.why})" if error.why else error.what
            findings.append(Finding("SOURCE_ERROR", "stops", reason, error.fix))
        if isinstance(source, Folder) and listing.tally.documents == 0:
            # its pictures can be looked at all the same, without their captions
            bare = source.model_copy(update={"captions": "txt", "missing_caption": "empty"})
            pictures = _list(bare, limit, runtime)
            listing.sample, listing.pictures = pictures.sample, pictures.pictures
    seen = _look_at_pictures(listing.sample.items(), images, runtime)
    lengths = sorted(listing.tally.lengths)
    findings += [*_about_documents(listing, corpus), *listing.tally.findings()]
    findings += findings_about(seen, images, limits.max_bad)
    stopped = any(finding.gravity == "stops" for finding in findings)
    if not corpus and not stopped and (too_much := _left_out_too_much(source, listing, seen, limits)):
        findings.append(Finding("TOO_MUCH_LEFT_OUT", "stops", f"{too_much.what} ({too_much.why})", too_much.fix))
    return Checkup(
        describe=_described(source),
        documents=listing.tally.documents,
        pictures=listing.pictures,
        omitted=sum(sighting.number for code, sighting in listing.omitted.items() if code not in _QUIET),
        looked_at=len(seen),
        good=sum(not one.reason for one in seen),
        formats=dict(Counter(one.format for one in seen).most_common()),
        sizes=size_table(seen),
        median_text=lengths[len(lengths) // 2] if lengths else 0,
        longest_text=lengths[-1] if lengths else 0,
        latent_bytes=None if latent_row_bytes is None else listing.pictures * latent_row_bytes,
        findings=by_gravity(findings),
    )


def _parts(source: Source) -> tuple[Source, ...]:
    return tuple(source.of.values()) if isinstance(source, Mix) else (source,)


def _described(source: Source) -> str:
    try:
        return source.describe()
    except TfcliError:  # a finding tells why
        return type(source).__name__.lower()


def _list(
    source: Source,
    limit: int,
    runtime: Runtime,
    alphabet: Alphabet | None = None,
    rows: Rows | None = None,
    name: str = "",
) -> _Listing:
    """One pass over all documents; texts are judged, pictures only counted."""
    listing = _Listing(TextTally(), Spread(limit), 0, defaultdict(Sighting))
    runtime.report(Note(f"reading {_described(source)}"))
    try:
        for item in source.documents():
            runtime.interrupts.check("nothing was changed")
            if isinstance(item, Omission):
                listing.omitted[item.reason].add(f"{item.path}: {item.message}")
                continue
            listing.tally.add(item)
            if rows is not None:
                rows.add(item, name or item.source)
            if alphabet is not None:
                for segment in item.segments:
                    if isinstance(segment, TextSegment):
                        alphabet.add(segment.text)
            listing.pictures += len(item.images)
            if item.images:
                listing.sample.add(item)
    except TfcliError as error:
        if runtime.interrupts.requested:
            raise
        listing.error = error
    return listing


def _left_out_too_much(source: Source, listing: _Listing, seen: list[SeenPicture], limits: Limits) -> TfcliError | None:
    """The error with which encoding stops, shard by shard in the order of the source. Where the sample has not all pictures,
    those that were not looked at count as good."""
    if not listing.omitted and not any(one.reason for one in seen):
        return None
    failures = Failures(limits.max_bad, limits.bad_window)
    looked = iter(seen if listing.complete else [])
    omissions: list[Omission] = []
    pictures = 0

    def shard() -> None:
        failures.lists(pictures, omissions)
        for _ in range(pictures):
            one = next(looked, None)
            bad = one is not None and one.reason
            errors = [{"path": one.name, "reason": one.reason, "message": one.message}] if one and bad else []
            failures.saw(0 if bad else 1, errors)

    try:
        for item in source.documents():
            if isinstance(item, Omission):
                omissions.append(item)
                continue
            for _ in item.images:
                if pictures == limits.shard_rows:
                    shard()
                    omissions, pictures = [], 0
                pictures += 1
        shard()
    except TfcliError as error:
        return error
    return None


def _look_at_pictures(documents: list[Document], images: Images, runtime: Runtime) -> list[SeenPicture]:
    """Decode the pictures of the sample, in worker processes where there are any."""
    chosen: list[ImageSegment] = [image for document in documents for image in document.images]
    seen = []
    with PictureReader(images, runtime.workers) as reader:
        decoded = reader.read(image.picture for image in chosen)
        for image, fitted in zip(chosen, decoded, strict=True):
            runtime.interrupts.check("nothing was changed")
            seen.append(look(image, fitted))
            runtime.report(Progress("look at pictures", len(seen), len(chosen), "pictures"))
    return seen


def _about_documents(listing: _Listing, corpus: bool) -> Iterator[Finding]:
    documents = listing.tally.documents
    omitted = {code: sighting for code, sighting in listing.omitted.items() if code not in _QUIET}
    total = documents + sum(sighting.number for sighting in omitted.values())
    if not documents and listing.error is None:
        yield Finding("NOTHING_USABLE", "stops", "not one document can be used", "see the reasons below")
    for code, sighting in omitted.items():
        many = sighting.number > total / 10 and code not in ("SKIPPED_LINK", "SKIPPED_SPECIAL")
        what = f"{share_text(sighting.number, total)} entries of the source are left out: {code}"
        yield Finding(
            code, "problem" if many else "remark", what, FIXES.get(code, ""), sighting.number, sighting.examples
        )
    for code in _QUIET:
        if code in listing.omitted:
            sighting = listing.omitted[code]
            yield Finding(code, "remark", "members of tars that are not read", "", sighting.number, sighting.examples)
    if documents and not listing.pictures:
        what = "no document has a picture: this is text for [[tokenize.text]], not a source for 'tfcli encode'"
        fix = "list it under [[tokenize.text]], next to a source of pictures"
        yield Finding("NO_PICTURES", "remark" if corpus else "stops", what, fix)
