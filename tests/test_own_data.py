"""A user's own data through every stage: a folder with damaged and unusual pictures, and interleaved documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.artifacts.samples import Samples
from stages.core.files import read_jsonl
from stages.core.seeds import numpy_generator
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.source import SHARES, draw_pair
from tests.running import ROOT, Done, tfcli

# The template with everything made small.
SMALL = [
    "images.size=32", "vae.channels=[8,16,16]", "vae.norm_groups=4", "vae.steps=20", "vae.heldout_pictures=8",
    "pack.passes=1", "model.width=32", "model.layers=1", "model.heads=2", "train.steps=10", "train.eval_every=10",
    "sample.heldout_prompts=2", "sample.captions=2", "sample.free=1", 'sample.generation.sampler.steps=2',
    "sample.generation.max_text_tokens=6",
]  # fmt: skip


def run(*arguments: str) -> Done:
    return tfcli("run", *arguments, *(word for setting in SMALL for word in ("--set", setting)))


def picture(number: int) -> tuple[Image.Image, str]:
    rng = numpy_generator(0, "own", number)
    pair = draw_pair(rng, SHARES, 3, None)
    return Image.fromarray(draw(pair.scene, 48)), pair.text


def make_folder(folder: Path) -> None:
    """200 pictures: two corrupt, one CMYK, one of 16 bits, one turned by EXIF, the others plain; captions in .txt files."""
    folder.mkdir()
    for number in range(200):
        image, text = picture(number)
        path = folder / f"{number:03d}.png"
        if number == 10:
            path = path.with_suffix(".jpg")
            image.save(path)
            path.write_bytes(path.read_bytes()[:400])
        elif number == 20:
            path.write_bytes(b"<html>not a picture</html>")
        elif number == 30:
            path = path.with_suffix(".jpg")
            image.convert("CMYK").save(path)
        elif number == 40:
            grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
            Image.fromarray(grey).save(path)
        elif number == 50:
            path = path.with_suffix(".jpg")
            exif = Image.Exif()
            exif[0x0112] = 6
            image.save(path, exif=exif)
        else:
            image.save(path)
        (folder / f"{number:03d}.txt").write_text(text)


def test_a_folder_of_200_pictures_names_what_it_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path / "my pictures")
    work = tmp_path / "work"
    done = run(
        str(ROOT / "recipes" / "folder.toml"),
        "--work",
        str(work),
        "--set",
        f"source.path={tmp_path / 'my pictures'}",
        "--json",
    )
    assert done.code == 0, done.stderr
    errors = {Path(row["path"]).name: row["reason"] for row in read_jsonl(work / "latents" / "errors.jsonl")}
    assert errors == {"010.jpg": "TRUNCATED", "020.png": "NOT_AN_IMAGE"}
    assert "2 left out" in done.stderr
    assert "TRUNCATED" in done.stderr
    assert "NOT_AN_IMAGE" in done.stderr
    assert "guidance" not in done.stderr
    manifest = json.loads((work / "latents" / "manifest.json").read_bytes())
    assert manifest["content"]["num_images"] == 200
    assert manifest["content"]["num_good"] == 198
    assert json.loads((work / "sequences" / "report.json").read_bytes())["left_out"]["IMAGE_FAILED"] == 2
    assert (work / "samples" / "index.html").exists()


def test_documents_with_none_to_four_images_go_through_and_are_continued(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    lines = []
    for number in range(60):
        parts: list[dict[str, Any]] = [{"text": f"page {number} "}]
        for place in range(number % 5):
            image, text = picture(10 * number + place)
            image.save(tmp_path / "img" / f"{number}-{place}.png")
            parts += [{"image": f"img/{number}-{place}.png"}, {"text": f" {text}. "}]
        lines.append(json.dumps({"id": f"page-{number}", "parts": parts}))
    (tmp_path / "pages.jsonl").write_text("\n".join(lines) + "\n")
    recipe = tmp_path / "pages.toml"
    recipe.write_text(
        f'extends = "{ROOT / "recipes" / "folder.toml"}"\n[source]\nkind = "jsonl"\npath = "{tmp_path / "pages.jsonl"}"\n'
        "[pack]\nheldout_fraction = 0.2\n[sample]\ncontinued = 3\n"
    )
    work = tmp_path / "work"
    done = run(str(recipe), "--work", str(work), "--json")
    assert done.code == 0, done.stderr
    assert "no image was trained without its text" in done.stderr  # the order is fixed, so nothing is dropped
    content = json.loads((work / "latents" / "manifest.json").read_bytes())["content"]
    assert (content["num_documents"], content["num_images"]) == (60, 120)
    continued = [record for record in Samples.open(work / "samples").records() if record.mode == "continued"]
    assert continued
    for record in continued:
        assert [part.image is not None for part in record.prompt] == [False, True]
        assert record.prompt[0].text is not None
        assert record.prompt[0].text.startswith("page ")
        assert record.ended
