"""What encoding a source would take: counts, bytes on disk, and a guess of the time from one batch. Writes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from stages.artifacts.autoencoder import Autoencoder, AutoencoderContent
from stages.artifacts.manifest import read_manifest
from stages.coders.config import Images
from stages.coders.vae import load_vae
from stages.core.runtime import Runtime
from stages.encode_images.config import EncodeConfig
from stages.encode_images.shards import num_shards
from stages.sources.decoding import read_picture
from stages.sources.document import Source, pictures_of
from stages.sources.folder import Folder


@dataclass(frozen=True)
class EncodePlan:
    """documents and pictures: what the source lists, before anything is found unusable. bytes and seconds (of all parts
    together) are None where the autoencoder is not there yet."""

    documents: int
    pictures: int
    shards: int
    bytes: int | None = None
    seconds: float | None = None


def latent_bytes(pictures: int, images: Images, encode: EncodeConfig, autoencoder: AutoencoderContent) -> int:
    """Bytes on disk of the arrays of so many pictures, without their documents: each row with its checksum (4 bytes) and its
    slot in the index of the shard (16). An upper bound: a bucket is as large as the square or smaller."""
    side = images.size // autoencoder.downsampling
    row = 2 * autoencoder.latent_channels * side**2 * np.dtype(encode.dtype).itemsize
    slots = num_shards(pictures, encode) * encode.shard_rows * len(images.shapes())
    return (2 if encode.mirror else 1) * (slots * 16 + pictures * (row + 4))


def plan(source: Source, images: Images, encode: EncodeConfig, autoencoder: Path, runtime: Runtime) -> EncodePlan:
    """Count by listing alone, then decode and encode one batch. The guess holds for this machine and these workers."""
    documents, pictures = source.count()
    counted = EncodePlan(documents, pictures, num_shards(pictures, encode))
    if pictures == 0 or read_manifest(autoencoder) is None:
        return counted
    opened = Autoencoder.open(autoencoder)
    size = latent_bytes(pictures, images, encode, opened.content)
    variants = 2 if encode.mirror else 1
    # of a folder the files alone: its captions may be a table of millions of lines
    many = encode.batch_size
    listed = source.first_pictures(many) if isinstance(source, Folder) else pictures_of(source.documents())
    first = list(islice(listed, many))
    started = time.perf_counter()
    found = [read_picture(picture, images).pixels for picture in first]
    reading = (time.perf_counter() - started) / max(1, len(found))
    batch = [pixels for pixels in found if pixels is not None]
    if not batch:
        return EncodePlan(documents, pictures, counted.shards, size)
    vae = load_vae(opened.model_folder, device=runtime.device, precision=encode.precision, compiled=encode.compile)
    shape = batch[0].shape  # of buckets the first: all have about as many pixels
    alike = [picture for picture in batch if picture.shape == shape]
    pixels = np.stack([alike[index % len(alike)] for index in range(encode.batch_size)])
    vae.encode(pixels)
    started = time.perf_counter()
    vae.encode(pixels)
    encoding = (time.perf_counter() - started) / encode.batch_size
    encoding *= variants
    each = max(reading / runtime.workers, encoding) if runtime.workers else reading + encoding
    return EncodePlan(documents, pictures, counted.shards, size, pictures * each)
