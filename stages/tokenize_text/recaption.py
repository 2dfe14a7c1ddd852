"""Other captions for the pictures of Latents: a file of keys and texts, laid over the documents as they go by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText, with_caption
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Report, Warn
from stages.core.text import printable
from stages.sources.captions import Row, read_captions
from stages.sources.files import existing
from stages.sources.lines import line_error
from stages.sources.text_rules import BadText, clean_text

_MAX_TEXT_BYTES = 65_536


class Captions:
    """The new captions by key. Raises TfcliError (INPUT) for a file or a line that cannot be used."""

    def __init__(self, path: str) -> None:
        self.path = existing(path, "captions")
        self.rows = read_captions(self.path)
        for key, row in self.rows.items():
            try:
                self.rows[key] = replace(row, caption=clean_text(row.caption or "", _MAX_TEXT_BYTES))
            except BadText as bad:
                raise line_error(self.path, row.line, f"{bad.reason}: {bad.message}") from bad

    def over(self, documents: Iterator[StoredDocument]) -> Iterator[StoredDocument]:
        """The documents, those that are named with their new text. Raises TfcliError (INPUT) for one that is no caption pair."""
        for document in documents:
            row = self.rows.get(document.key)
            yield document if row is None else self._replaced(document, row)

    def report(self, found: set[str], report: Report) -> None:
        """What became of the lines. Raises TfcliError (INPUT) where no key is one of a document."""
        strange = [(row.line, key) for key, row in self.rows.items() if key not in found]
        if not strange:
            return
        line, key = strange[0]
        if not found:
            raise TfcliError(
                f"{printable(str(self.path))}: none of its {len(self.rows):,} keys is that of a document",
                why=f"such as {printable(key)!r} in line {line}",
                fix="a key is the picture's path in its folder without the extension, or the id of the document",
                code=ExitCode.INPUT,
            )
        report(
            Warn(
                f"{len(strange):,} captions have no document, such as {printable(key)!r} in line {line} of {self.path}"
            )
        )

    def _replaced(self, document: StoredDocument, row: Row) -> StoredDocument:
        images = [part for part in document.segments if isinstance(part, StoredImage)]
        texts = [part for part in document.segments if isinstance(part, StoredText)]
        if len(images) != 1 or len(texts) > 1:
            raise line_error(
                self.path,
                row.line,
                f"{printable(document.key)} has {len(images)} pictures and {len(texts)} texts, not one caption",
            )
        return with_caption(document, (row.caption or "").strip())
