"""Tiny artifacts for tests: random latents and real token and sequence artifacts on top of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.arrays import create_rows, write_flat, write_shard
from stages.artifacts.autoencoder import AutoencoderContent, Identity
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.latents import ARRAYS, DOCUMENTS, ERRORS, GRIDS, Grid, LatentsContent
from stages.artifacts.manifest import Stamp, input_entry, open_artifact
from stages.coders.config import Images
from stages.core.events import Report, silent
from stages.core.files import with_sum, write_jsonl
from stages.core.runtime import Runtime
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.stage import run as run_pack
from stages.tokenize_text.config import TokenizeConfig, TrainTokenizer
from stages.tokenize_text.stage import run as run_tokenize

# Statistics of the channels of every latent made here, in turn: of mean 0 and deviation 1, latents that nobody normalised
# would look right.
CHANNEL_MEANS, CHANNEL_STDS = (3.0, -1.0), (0.5, 2.0)
POSTERIOR_DEVIATION = 0.1


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of an artifact as somebody would who knows how sums are made."""
    path = folder / "manifest.json"
    raw = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "sha256"}
    change(raw)
    path.write_text(json.dumps(with_sum(raw) if raw["envelope"] >= 3 else raw))


@dataclass(frozen=True)
class Story:
    """A document as its parts: a string is text, None an image, twice as wide as high if `wide`; those of a bad one failed."""

    parts: tuple[str | None, ...]
    fixed_order: bool = False
    group: str | None = None
    heldout: bool = False
    has_heldout_loss: bool = True
    bad: bool = False
    wide: bool = False
    source: str = "pictures"


def stamp(
    kind: str, stage: str, inputs: dict[str, Path] | None = None, target: Path | None = None, **config: Any
) -> Stamp:
    entries = {}
    for name, folder in (inputs or {}).items():
        assert target is not None
        entries[name] = input_entry(folder, target, open_artifact(folder, name))
    return Stamp(kind=kind, stage=stage, stage_version=1, seed=0, config=config, inputs=entries)


def make_latents(folder: Path, stories: list[Story], *, channels: int = 2, side: int = 4, mirror: bool = False) -> Path:
    """A Latents artifact with random rows of the statistics above; a bad story has a NaN row for each of its images. mirror: a
    second grid. Wide stories have their rows in a grid of their own."""
    rng = np.random.default_rng(0)
    means, stds = ([each[channel % 2] for channel in range(channels)] for each in (CHANNEL_MEANS, CHANNEL_STDS))
    mean_c11, std_c11 = (np.array(each)[:, None, None] for each in (means, stds))
    rows, lines, errors, grid_of_row = [], [], [], []
    for number, story in enumerate(stories):
        segments: list[dict[str, Any]] = []
        for part in story.parts:
            if part is None:
                segments.append({"image": len(rows), "name": f"{number}"})
                if story.bad:
                    errors.append(
                        {"key": f"d{number}", "path": "x", "reason": "CORRUPT", "message": "", "row": len(rows)}
                    )
                values = rng.normal(size=(2, channels, side, side)).astype(np.float32)
                values[0] = mean_c11 + std_c11 * values[0]
                values[1] = POSTERIOR_DEVIATION
                if story.bad:
                    values[0], values[1] = np.nan, 0
                rows.append(values)
                grid_of_row.append(int(story.wide))
            else:
                segments.append({"text": part})
        lines.append(
            {
                "key": f"d{number}",
                "source": story.source,
                "group": story.group,
                "fixed_order": story.fixed_order,
                "heldout": story.heldout,
                **({} if story.has_heldout_loss else {"has_heldout_loss": False}),
                "facts": None,
                "segments": segments,
            }
        )
    with building(folder, stamp("latents", "encode", stories=len(stories)), Runtime()) as build:
        stacked = np.stack(rows) if rows else np.zeros((1, 2, channels, side, side), np.float32)
        names = [f"{side}x{side}", f"{side}x{side}-mirrored"][: 1 + mirror]
        for name in names:
            array = build.folder / ARRAYS / name
            create_rows(array, len(stacked), (2, channels, side, side), "float32", 64)
            for shard in range(-(-len(stacked) // 64)):
                write_shard(array, shard, stacked[shard * 64 : (shard + 1) * 64])
        grids = [
            Grid(
                name=name,
                height=side,
                width=side,
                rows=len(stacked),
                pictures=len(stacked),
                mirror=1 if mirror and number == 0 else None,
            )
            for number, name in enumerate(names)
        ]
        if any(grid_of_row):
            wide = np.concatenate([stacked, stacked], -1)
            array = build.folder / ARRAYS / f"{side}x{2 * side}"
            create_rows(array, len(wide), wide.shape[1:], "float32", 64)
            for shard in range(-(-len(wide) // 64)):
                write_shard(array, shard, wide[shard * 64 : (shard + 1) * 64])
            write_flat(build.folder / ARRAYS / GRIDS, np.array(grid_of_row, np.uint8))
            grids.append(Grid(name=array.name, height=side, width=2 * side, rows=len(wide), pictures=sum(grid_of_row)))
        (build.folder / DOCUMENTS).mkdir()
        write_jsonl(build.folder / DOCUMENTS / "00000.jsonl", lines)
        write_jsonl(build.folder / ERRORS, errors)
        content = LatentsContent(
            autoencoder=Identity(
                class_name="AutoencoderKL", weights_sha256="", scaling_factor=None, shift_factor=None, probe=[]
            ),
            picture_size=side * 4,
            latent_channels=channels,
            downsampling=4,
            num_images=len(stacked),
            num_good=len(stacked) - len(errors),
            num_documents=len(stories),
            shard_rows=64,
            dtype="float32",
            grids=grids,
            channel_mean=means,
            channel_std=stds,
        )
        build.seal(content.model_dump(), {})
    return folder


def make_tokens(folder: Path, latents: Path, config: TokenizeConfig | None = None, report: Report = silent) -> Path:
    config = config or TokenizeConfig(tokenizer=TrainTokenizer(vocab_size=400))
    with building(folder, stamp("tokens", "tokenize", {"latents": latents}, folder), Runtime()) as build:
        run_tokenize(tokenize=config, latents=latents, context=StageContext(build, Runtime(report), 0))
    return folder


def make_sequences(folder: Path, tokens: Path, latents: Path, config: PackConfig, seed: int = 0) -> Path:
    inputs = {"tokens": tokens, "latents": latents}
    with building(folder, stamp("sequences", "pack", inputs, folder, pack=config.model_dump()), Runtime()) as build:
        run_pack(pack=config, tokens=tokens, latents=latents, context=StageContext(build, Runtime(), seed))
    return folder


def make_all(work: Path, stories: list[Story], config: PackConfig, side: int = 4) -> Path:
    """latents, tokens and sequences below `work`; returns the folder of sequences."""
    latents = make_latents(work / "latents", stories, side=side)
    tokens = make_tokens(work / "tokens", latents)
    return make_sequences(work / "sequences", tokens, latents, config)


def make_autoencoder(folder: Path, images: Images | None = None) -> Path:
    """An untrained autoencoder that halves sides, with 4 latent channels; for pictures of 16 px."""
    import torch

    from stages.coders.vae import Vae, build_vae, save_vae

    images = images or Images(size=16)
    with building(folder, stamp("autoencoder", "vae"), Runtime()) as build:
        torch.manual_seed(0)
        identity = save_vae(Vae(build_vae((8, 8), 1, 4, 4), torch.device("cpu")), build.folder / "model")
        content = AutoencoderContent(
            identity=Identity.model_validate(identity),
            latent_channels=4,
            downsampling=2,
            picture_size=images.size,
            fit=images.fit,
        )
        build.seal(content.model_dump(), {})
    return folder
