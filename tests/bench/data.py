"""`make bench-data`: the hot paths of the data stages, each against what the same machine could at best do.

All ratios of one run, the two sides of each in turn, medians. Prints a table and writes work/bench/data.json.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from diffusers import AutoencoderKL
from PIL import Image

from stages.artifacts.arrays import RowReader, create_rows, write_shard
from stages.artifacts.autoencoder import AutoencoderContent, Identity
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.latents import StoredText
from stages.artifacts.manifest import Stamp
from stages.coders.config import Images
from stages.coders.text import TextCoder, train_sentencepiece
from stages.coders.vae import Vae, load_vae, save_vae
from stages.core.events import Event, Progress
from stages.core.runtime import Runtime
from stages.diffusion.config import DiffusionConfig
from stages.encode_images import stage as encode_stage
from stages.encode_images.config import EncodeConfig
from stages.model.config import ModelConfig
from stages.model.transformer import Transfusion
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.fit import best_fit
from stages.pipeline import BY_NAME, Workspace
from stages.recipe import load_recipe
from stages.sources.folder import Folder
from stages.tokenize_text.stage import _Columns, _CorpusDocument
from stages.train_model.batches import rows_of_step
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.objective import loss_sums
from tests.bench.figures import Figure, at_least, at_most, run, seconds
from tests.builders import Story, make_all


def autoencoder(target: Path, channels: tuple[int, ...], size: int, groups: int, attention: bool = False) -> Path:
    """A sealed autoencoder with fresh weights, two layers a block, 4 latent channels."""
    with building(target, Stamp("autoencoder", "vae", 1, 0, {}), Runtime()) as build:
        torch.manual_seed(0)
        blocks = len(channels)
        model = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=groups,
            mid_block_add_attention=attention,
        )
        identity = save_vae(Vae(model, torch.device("cpu")), build.folder / "model")
        content = AutoencoderContent(
            identity=Identity.model_validate(identity),
            latent_channels=4,
            downsampling=2 ** (len(channels) - 1),
            picture_size=size,
            fit="crop",
        )
        build.seal(content.model_dump(), {})
    return target


def pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files with captions, of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        rough = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((side, side)).save(folder / f"{number:06d}.jpg", quality=90)
        (folder / f"{number:06d}.txt").write_text(f"picture {number}")


def encode(work: Path) -> list[Figure]:
    """The encode stage on 96 px JPEG files at 64 px: its steady rate (first shard apart), against the bare forward pass of
    the same batch, and against the usual script: one file after another, PIL, diffusers, float32."""
    size, batch = 64, 32
    pictures(work / "jpg", 5120, 96)
    vae_folder = autoencoder(work / "vae", (32, 64, 128), size, 8, attention=True)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    files = sorted((work / "jpg").glob("*.jpg"))[:128]
    naive_model = AutoencoderKL.from_pretrained(vae_folder / "model", use_safetensors=True).eval()
    figures = []
    for precision in ("fp32", "bf16"):
        vae = load_vae(vae_folder / "model", device="cpu", precision=precision)

        def bare(vae: Any = vae) -> None:
            for _ in range(4):
                vae.encode(pixels)

        def usual() -> None:
            with torch.no_grad():
                for file in files:
                    image = Image.open(file).convert("RGB").crop((0, 0, 96, 96)).resize((size, size))
                    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
                    naive_model.encode(values).latent_dist.mean.numpy()

        ratios, gains = [], []
        for turn in range(3):
            marks: list[tuple[int, float]] = []

            def listen(event: Event, marks: list[tuple[int, float]] = marks) -> None:
                if isinstance(event, Progress):
                    marks.append((event.done, time.perf_counter()))

            target = work / f"latents-{precision}-{turn}"
            config = EncodeConfig(batch_size=batch, precision=precision, check_pictures=1)
            runtime = Runtime(listen, device="cpu", workers=2)
            with building(target, Stamp("latents", "encode", 1, turn, {}), runtime) as build:
                encode_stage.run(
                    Folder(path=str(work / "jpg")),
                    Images(size=size),
                    config,
                    vae_folder,
                    StageContext(build, runtime, 0),
                )
            rate = (marks[-1][0] - marks[0][0]) / (marks[-1][1] - marks[0][1])
            ratios.append(rate / (4 * batch / seconds(bare, 3)))
            gains.append(rate / (len(files) / seconds(usual, 1)))
            shutil.rmtree(target)
        figures.append(at_least(f"encode / bare forward, {precision}", statistics.median(ratios), 0.92))
        bound = 3.0 if precision == "bf16" else 0.0
        figures.append(at_least(f"encode / usual script, {precision}", statistics.median(gains), bound))
    return figures


def rows(work: Path) -> list[Figure]:
    """Shuffled batches of 64 rows of 8 x 32 x 32 float16 over all shards, like for like with a numpy memmap."""
    count, shape = 20_480, (8, 32, 32)
    path = work / "rows"
    create_rows(path, count, shape, "float16", 1024)
    flat = np.lib.format.open_memmap(work / "rows.npy", mode="w+", dtype=np.float16, shape=(count, *shape))
    rng = np.random.default_rng(0)
    for shard in range(count // 1024):
        values = rng.standard_normal((1024, *shape)).astype(np.float16)
        write_shard(path, shard, values)
        flat[shard * 1024 : (shard + 1) * 1024] = values
    flat.flush()
    order = rng.permutation(count).reshape(-1, 64)
    reader, plain = RowReader(path), np.load(work / "rows.npy", mmap_mode="r")
    assert np.array_equal(reader.read(order[0]), plain[order[0]])

    def ours() -> None:
        for batch in order:
            reader.read(batch)

    def memmap() -> None:
        for batch in order:
            plain[batch]

    ratios = [seconds(memmap, 1) / seconds(ours, 1) for _ in range(9)]
    return [
        at_least("shuffled rows / numpy memmap", statistics.median(ratios), 0.75),
        Figure("shuffled rows", count / seconds(ours, 3), "rows/s"),
    ]


def loading(work: Path) -> list[Figure]:
    """Making a batch, as a share of a whole training step: of `shapes`, and of the paper's smallest model."""
    settings = ("source.pictures=2000", "source.interleaved=200", "vae.steps=2", "train.precision=bf16")
    recipe = load_recipe("shapes", tuple(setting.replace("=bf16", '="bf16"') for setting in settings))
    space = Workspace(recipe, work / "shapes")
    for name in ("vae", "encode", "tokenize", "pack"):
        space.run(BY_NAME[name], Runtime(device="cpu"))
    small = _share_of_loading(space.target("sequences"), recipe.model, recipe.train.batch_rows, 20, 5)
    # the paper's smallest model on rows of 4,096 with pictures of 256 patches, a row at a time
    caption = "a picture of something, with a caption of about as many words as people write, number"
    stories = [Story((f"{caption} {number}", None)) for number in range(64)]
    sequences = make_all(work / "paper", stories, PackConfig(row_length=4096, heldout_fraction=0, passes=4), side=32)
    paper = ModelConfig(width=768, layers=16, heads=12)
    large = _share_of_loading(sequences, paper, 1, 1, 1)
    return [
        at_most("making batches / training step, shapes", small, 2, "%"),
        at_most("making batches / training step, 0.16 B of the paper", large, 2, "%"),
    ]


def _share_of_loading(sequences: Path, config: ModelConfig, batch_rows: int, steps: int, repeats: int) -> float:
    """Median of the share, in percent, of making batches in forward and backward passes in bf16."""
    data = Data(sequences, DiffusionConfig(), config)
    model = Transfusion(config, data.dims)
    model.initialise(torch.Generator().manual_seed(0))
    train = TrainConfig(batch_rows=batch_rows)

    def make(step: int) -> Any:
        rows = rows_of_step(data.content.num_rows, batch_rows, 0, step)
        return data.batches(train, rows, step, 0, Ranks())

    def whole() -> None:
        for step in range(steps):
            for batch in make(step):
                with torch.autocast("cpu", torch.bfloat16):
                    sums = loss_sums(model, batch)
                (sums.text + sums.weighted_image).backward()  # type: ignore[no-untyped-call]

    def only_make() -> None:
        for step in range(steps):
            make(step)

    return statistics.median(100 * seconds(only_make, 1) / seconds(whole, 1) for _ in range(repeats))


def tokenize(_work: Path) -> list[Figure]:
    """The tokenize stage's own work against sentencepiece called once with all texts and all cores."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "a",
        "lazy",
        "dog",
        "and",
        "then",
        "it",
        "turns",
        "blue",
        "near",
        "some",
        "old",
        "green",
        "house",
        "by",
        "the",
        "river",
    ]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, int(size))) for size in rng.integers(20, 200, 50_000)]
    model = train_sentencepiece(texts[:5_000], 400, "bpe")
    coder = TextCoder(model)
    documents = [_CorpusDocument(str(number), None, (StoredText(text),), "text") for number, text in enumerate(texts)]
    plain = sentencepiece.SentencePieceProcessor(model_proto=model)
    threads = os.cpu_count() or 1

    def ours() -> None:
        columns = _Columns()
        for start in range(0, len(documents), 10_000):
            columns.add(documents[start : start + 10_000], coder, threads)
        dict(columns.arrays())

    def direct() -> None:
        for start in range(0, len(texts), 10_000):
            plain.Encode(texts[start : start + 10_000], out_type=int, num_threads=threads)

    ratios = [seconds(direct, 1) / seconds(ours, 1) for _ in range(7)]
    return [at_least("tokenize / sentencepiece", statistics.median(ratios), 0.9)]


def pack(_work: Path) -> list[Figure]:
    """Placing one million documents of log-normal length (16 to 4,096, mean 399) in rows of 4,096."""
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 1.0, 1_000_000), 16, 4096).astype(np.int64)
    taken = seconds(lambda: best_fit(lengths, 4096), 3)
    _, _, count = best_fit(lengths, 4096)
    return [
        at_most("placing 1,000,000 documents", taken, 2, "s"),
        at_least("fill", 100 * lengths.sum() / (count * 4096), 99.8, "%"),
    ]


def memory(work: Path) -> list[Figure]:
    """Peak memory of encoding 10,000 and 100,000 tiny pictures from tars, each in a process of its own."""
    peaks = []
    for count in (10_000, 100_000):
        space, folder = work / f"tiny-{count}", work / f"tars-{count}"
        autoencoder(space / "autoencoder", (8, 8), 16, 4)
        folder.mkdir()
        picture = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(picture, "PNG")
        data = picture.getvalue()
        for start in range(0, count, 10_000):
            with tarfile.open(folder / f"{start:06d}.tar", "w") as tar:
                for number in range(start, start + 10_000):
                    for name, content in ((f"{number:06d}.png", data), (f"{number:06d}.txt", b"a picture")):
                        info = tarfile.TarInfo(name)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
        source = f'source={{kind="webdataset",path="{folder}"}}'
        settings = [source, "images.size=16", "encode.batch_size=256"]
        command = [sys.executable, "-m", "tfcli", "encode", "-r", "smoke", "--work", str(space), "--workers", "0", "-q"]
        child = subprocess.Popen(
            [*command, *(part for one in settings for part in ("--set", one))], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024)
    return [
        Figure("peak memory, 10,000 pictures", peaks[0], "MiB"),
        at_most("peak memory, 100,000 against 10,000 pictures", peaks[1] / peaks[0], 1.2, "x"),
    ]


def main() -> int:
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        return run((memory, encode, rows, loading, tokenize, pack), "data", Path(folder))


if __name__ == "__main__":
    sys.exit(main())
