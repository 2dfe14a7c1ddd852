"""Why things of a source are left out, and what fixes it: one table for the checkup and for a stage that is left with nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import Document, Omission
from stages.sources.text_rules import printable

FIXES = {
    "CAPTION_MISSING": 'write captions, or set source.missing_caption = "empty" to keep the pictures alone',
    "DUPLICATE_KEY": "rename one of them",
    "PERMISSION": "change the mode of the files",
    "SKIPPED_LINK": "set source.follow_links = true to read them",
    "TEXT_NOT_UTF8": "save the texts as UTF-8",
    "TEXT_TOO_LONG": "shorten the texts, or raise source.max_text_bytes",
    "TEXT_U2581": "replace U+2581 by another sign",
    "TEXT_NUL": "remove the NUL characters",
    "IMAGE_MISSING": "add the pictures, or take the samples out",
    "JSON_BROKEN": "write the .json files again",
    "TAR_TRUNCATED": "fetch the tar again",
}


@dataclass
class LeftOut:
    """What was left out, by reason: how many, and the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, path: str, message: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.examples.setdefault(reason, f"{printable(path)}: {message}")

    def kept(self, items: Iterable[Document | Omission]) -> Iterator[Document]:
        """The documents among the items; the others are counted."""
        for item in items:
            if isinstance(item, Document):
                yield item
            else:
                self.add(item.reason, item.path, item.message)

    def nothing(self, what: str, source: str) -> TfcliError:
        """An INPUT error for a stage that has nothing to work on: what was left out and why, and what fixes the most of it."""
        ranked = sorted(self.counts, key=lambda reason: -self.counts[reason])
        total = sum(self.counts.values())
        shown = "; ".join(f"{self.counts[reason]:,} {reason} ({self.examples[reason]})" for reason in ranked[:4])
        fixes = [FIXES[reason] for reason in ranked if reason in FIXES][:2]
        return TfcliError(
            what,
            why=f"{source}: {total:,} left out: {shown}" if total else f"{source}: there is no picture in it",
            fix="; ".join(fixes)
            or ("see what 'tfcli doctor' says of the source" if total else "check the source's path"),
            code=ExitCode.INPUT,
        )
