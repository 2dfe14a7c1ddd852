"""Generation from Python. Its public names are those of `tfcli`. `load` brings torch; importing this does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.sample_model.events import End, Event, Picture, Step, Text

if TYPE_CHECKING:
    from stages.sample_model.api import Model

__all__ = ["End", "Event", "Picture", "Step", "Text", "load"]


def load(path: Path | str, device: str = "auto", precision: Literal["fp32", "bf16"] | None = None) -> Model:
    """A finished checkpoint with its tokenizer and autoencoder, ready to generate. path: its folder, or the work folder around
    it. device: auto, cpu, cuda, cuda:N. precision: of the matrix products; None: as in the recipe.

    Raises TfcliError: ARTIFACT where a part is gone or has changed, USAGE for a device or a precision that is none.
    """
    from stages.artifacts.manifest import MANIFEST
    from stages.sample_model.api import Model

    folder = Path(path)
    if not (folder / MANIFEST).exists() and (folder / "checkpoint" / MANIFEST).exists():
        folder /= "checkpoint"
    return Model(folder, device, precision)
