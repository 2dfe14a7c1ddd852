"""Why things of a source are left out, and what fixes it: one table for the checkup and for a stage that is left with nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stages.core.errors import ExitCode, TfcliError
from stages.core.text import printable
from stages.sources.document import Document, Omission

# Reason code of a source, of decoding or of encoding -> the fix.
FIXES = {
    "CAPTION_MISSING": 'write captions, or keep the pictures alone with --set source.missing_caption="empty"',
    "DUPLICATE_KEY": "rename one of them",
    "PERMISSION": "let this user read the files",
    "SKIPPED_LINK": "read the links with --set source.follow_links=true",
    "TEXT_NOT_UTF8": "save the texts as UTF-8",
    "TEXT_TOO_LONG": "shorten the texts, or raise source.max_text_bytes",
    "TEXT_U2581": "replace U+2581 by another sign",
    "TEXT_NUL": "remove the NUL characters",
    "IMAGE_MISSING": "add the pictures, or take the samples out",
    "JSON_BROKEN": "write the .json files again",
    "TAR_TRUNCATED": "fetch the tar again",
    "TOO_MANY_PIXELS": "make them smaller, or raise images.policy.max_pixels",
    "TOO_MANY_BYTES": "make them smaller, or raise images.policy.max_bytes",
    "TOO_SMALL": "take them out, or lower images.policy.min_size",
    "ASPECT": "crop them, or raise images.policy.max_aspect",
    "ALPHA": 'flatten them, or set images.policy.alpha = "white"',
    "ANIMATED": 'take a frame of each, or set images.policy.animated = "first"',
    "TRUNCATED": "fetch or copy them again",
    "CORRUPT": "fetch or copy them again",
    "EMPTY_FILE": "fetch or copy them again",
    "NOT_AN_IMAGE": "fetch them again: this is not a picture",
    "FORMAT_NOT_ALLOWED": "convert them to PNG, JPEG or WebP",
    "UNREADABLE": "let this user read the files, and check their disk",
    "DECODER_TIMEOUT": "take them out, or raise images.policy.max_seconds",
    "DECODER_CRASHED": "take them out",
    "LATENT_NONFINITE": "set encode.dtype=float32, or use another autoencoder",
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
