"""The recipe section [encode]: pictures to raw latents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.coders.quality import FLOOR_DB
from stages.core.config import Section, neutral

VERSION = 4  # of the stage; raised where the same settings give other bytes


class EncodeConfig(Section):
    """How pictures become latents, and when the stage stops because too many cannot be used."""

    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored latents (mean and standard deviation of the posterior)."""
    batch_size: int = Field(32, ge=1)
    """Pictures that the autoencoder takes at once. Part of the result: convolutions round by the size of a batch."""
    shard_rows: int = Field(1024, ge=1)
    """Pictures in one shard, the unit of work and of resuming."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the autoencoder. bf16 is three times as fast on processors that have it, and changes latents by 0.4 %
    (docs/benchmarks.md)."""
    compile: bool = False
    """Compile the autoencoder with torch.compile; on a CPU that needs a C++ compiler."""
    mirror: bool = False
    """Also store each picture flipped left to right; packing then draws one of the two each time. Not for captions that tell
    left from right, nor for pictures with writing."""
    max_bad: float = neutral(0.05, ge=0, le=1)
    """Share of pictures that may fail before the stage stops: of the first 100, of the last bad_window and of all so far. It is
    also the limit for all samples left out (no caption, a broken row). Finished shards stay when it is raised."""
    bad_window: int = neutral(1000, ge=100)
    """Number of the last pictures of which max_bad is also the limit, to notice a disk that fails late."""
    check_pictures: int = Field(64, ge=1)
    """Pictures that are decoded from the stored latents at the end, for the PSNR and the sheet of comparisons."""
    min_psnr: float = neutral(FLOOR_DB, ge=0)
    """PSNR in dB that the checked pictures should reach; below it the autoencoder loses too much of them."""
    psnr_check: Literal["warn", "refuse"] = neutral("warn")
    """What happens below min_psnr: a warning, or an error instead of a finished artifact."""
