"""The union of all sources: what a recipe's `source` may be. A new source is one file and one name in this union."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.sources.emoji import Emoji
from stages.sources.folder import Folder
from stages.sources.jsonl import Jsonl
from stages.sources.parquet import Parquet
from stages.sources.shapes.source import Shapes
from stages.sources.text import Text
from stages.sources.webdataset import Webdataset

SourceConfig = Annotated[Folder | Webdataset | Jsonl | Parquet | Text | Emoji | Shapes, Field(discriminator="kind")]
