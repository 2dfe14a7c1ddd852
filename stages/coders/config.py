"""The recipe section [images]: how every picture becomes square pixels. Said once; `vae` and `encode` both obey it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.coders.pixels import PixelPolicy
from stages.core.config import Section


class Images(Section):
    """size: side in pixels after fitting. fit: centre crop (paper, section 4.1) or pad to a square on white."""

    size: int = Field(64, ge=8, le=4096)
    fit: Literal["crop", "pad"] = "crop"
    policy: PixelPolicy = PixelPolicy()
