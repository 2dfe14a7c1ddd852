"""The union of all sources: what a recipe's `source` may be. A new source is one file and one name in `SingleSource`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.sources.mix import Mix, SingleSource

SourceConfig = Annotated[SingleSource | Mix, Field(discriminator="kind")]
