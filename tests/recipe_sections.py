"""The sections that a recipe is made of, for the tests of all of them."""

from __future__ import annotations

from pydantic import BaseModel

from stages.core.config import sections_in
from stages.recipe import Recipe


def section_models(model: type[BaseModel] = Recipe) -> list[type[BaseModel]]:
    """All sections of a recipe, each once."""
    below = [
        each
        for info in model.model_fields.values()
        for kind in sections_in(info.annotation)
        for each in section_models(kind)
    ]
    return list(dict.fromkeys([model, *below]))
