"""The recipe section [encode]: pictures to raw latents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.coders.quality import FLOOR_DB
from stages.core.config import Section, neutral


class EncodeConfig(Section):
    """dtype: of the stored mean and standard std. batch_size is part of the result (convolutions round by batch).

    precision: bf16 is three times as fast as fp32 on processors that have it, and changes latents by 0.4 % (BENCHMARKS.md).
    compile: the autoencoder by torch.compile, which needs a C++ compiler on a CPU.
    mirror: store each picture flipped left to right as well; packing draws one of the two for each place. Not for captions
    that tell left from right, nor for pictures with writing.
    max_bad: share of pictures that may fail, over the first 100, over the last bad_window and over the whole run, before the
    stage stops, and share of all samples that may be left out for any reason (no caption, a broken row, a link that is not
    followed; not files of other kinds); finished shards stay when it is raised.
    check_pictures: how many are decoded again for the PSNR and the sheet.
    min_psnr: dB that these should reach; psnr_check: what happens below it: "warn", or "refuse" to seal the latents.
    """

    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = Field(32, ge=1)
    shard_rows: int = Field(1024, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    mirror: bool = False
    max_bad: float = neutral(0.05, ge=0, le=1)
    bad_window: int = neutral(1000, ge=100)
    check_pictures: int = Field(64, ge=1)
    min_psnr: float = neutral(FLOOR_DB, ge=0)
    psnr_check: Literal["warn", "refuse"] = neutral("warn")
