"""What a recipe's `source` may be: one source, or several as one (Mix), with the documents of each in turn under its name, which
`pack.weights` uses. A new source is one file and one name in `SingleSource`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.core.config import Section
from stages.sources.document import Document, Omission
from stages.sources.emoji import Emoji
from stages.sources.folder import Folder
from stages.sources.hash_cache import KnownHashes
from stages.sources.jsonl import Jsonl
from stages.sources.parquet import Parquet
from stages.sources.shapes.edits import ShapesEdits
from stages.sources.shapes.source import Shapes
from stages.sources.text import TextFiles
from stages.sources.webdataset import Webdataset

SingleSource = Folder | Webdataset | Jsonl | Parquet | TextFiles | Emoji | Shapes | ShapesEdits
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class Mix(Section):
    """Named sources, in the order of the recipe: [source.of.photos], [source.of.drawings]."""

    kind: Literal["mix"] = "mix"
    """Several sources as one, each with a name."""
    of: dict[Name, Annotated[SingleSource, Field(discriminator="kind")]] = Field(min_length=1)
    """The sources by name, each a table such as [source.of.photos] with the keys of its kind. pack.weights refers to the names:
    letters, digits, "_" and "-"."""

    def documents(self) -> Iterator[Document | Omission]:
        """All documents; keys and groups begin with the name of their source."""
        for name, source in self.of.items():
            for item in source.documents():
                if isinstance(item, Omission):
                    yield replace(item, key=f"{name}/{item.key}")
                else:
                    group = None if item.group is None else f"{name}/{item.group}"
                    yield replace(item, key=f"{name}/{item.key}", group=group, source=name)

    def count(self) -> tuple[int, int]:
        """The sums over all sources."""
        counts = [source.count() for source in self.of.values()]
        return sum(documents for documents, _ in counts), sum(pictures for _, pictures in counts)

    def identity(self, known: KnownHashes | None = None) -> Any:
        """That of each source, in the order of the recipe."""
        return [[name, source.identity(known)] for name, source in self.of.items()]

    def describe(self) -> str:
        """Each source."""
        return "; ".join(f"{name}: {source.describe()}" for name, source in self.of.items())


SourceConfig = Annotated[SingleSource | Mix, Field(discriminator="kind")]
