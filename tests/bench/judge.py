"""`make bench-judge`: the errors of the judge of shapes behind an autoencoder, on true pictures and on planted faults.

Reads the autoencoder of a run (AUTOENCODER in the environment, by default work/shapes/autoencoder), draws at the size of its
pictures, prints a table and writes work/bench/judge.json. stages/sources/shapes/README.md has the figures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.autoencoder import Autoencoder
from stages.coders.quality import psnr
from stages.coders.vae import Vae, load_vae
from stages.core.seeds import numpy_generator
from stages.sources.shapes.captions import KINDS, caption, one_of
from stages.sources.shapes.claims import claims
from stages.sources.shapes.drawing import FOREIGN, Pixels, draw
from stages.sources.shapes.judge import Seen, claims_of, judge, see
from stages.sources.shapes.world import COLOURS, SHAPES, SIZES, Scene, Thing, draw_scene, fits, moved
from tests.bench.figures import Figure, at_least, run

_SCENES = 300  # 75 of each number of things: 750 things
_BATCH = 30
Fault = Callable[[Scene, np.random.Generator], Scene | None]


class Passed:
    """Pictures drawn and passed through an autoencoder."""

    def __init__(self, vae: Vae, size: int) -> None:
        self.vae, self.size = vae, size
        self.scenes = [draw_scene(numpy_generator(0, "bench judge", n), 1 + n % 4) for n in range(_SCENES)]

    def through(self, pictures: list[Pixels]) -> list[Pixels]:
        """Encoded to the means of their latents, and decoded."""
        passed: list[Pixels] = []
        for start in range(0, len(pictures), _BATCH):
            passed += list(self.vae.decode(self.vae.encode(np.stack(pictures[start : start + _BATCH]))[0]))
        return passed

    def seen(self, pictures: list[Pixels]) -> list[list[Seen]]:
        return [see(picture) for picture in self.through(pictures)]


def true_pictures(passed: Passed) -> list[Figure]:
    """What an error-free model would score."""
    drawn = [draw(scene, passed.size) for scene in passed.scenes]
    given = passed.through(drawn)
    seen = [see(picture) for picture in given]
    verdicts = [judge(claims_of(scene), things) for scene, things in zip(passed.scenes, seen, strict=True)]
    things = sum(len(scene.things) for scene in passed.scenes)
    off = [
        min(max(abs(thing.x - one.x), abs(thing.y - one.y)) for one in found)
        for scene, found in zip(passed.scenes, seen, strict=True)
        for thing in scene.things
        if found
    ]
    figures = [
        Figure("true things", things, ""),
        Figure("PSNR", psnr(drawn, given), "dB"),
        at_least("all claims right but sizes", 100 * float(np.mean([verdict.right for verdict in verdicts])), 99, "%"),
        at_least("all claims right", 100 * float(np.mean([verdict.all_right for verdict in verdicts])), 99, "%"),
        Figure("position of a thing off by, 99th percentile", 100 * float(np.quantile(off, 0.99)), "% of the side"),
    ]
    overlaps = [one.overlap for found in seen for one in found if one.overlap > 0]
    figures.append(Figure("overlap with the best drawing, 1st percentile", float(np.quantile(overlaps, 0.01)), ""))
    for kind in KINDS:
        right = []
        for number, (scene, found) in enumerate(zip(passed.scenes, seen, strict=True)):
            text = caption(kind, scene, numpy_generator(0, f"bench judge {kind}", number))
            if text is not None:
                right.append(judge(claims(text), found).right)
        figures.append(at_least(f"captions: {kind} ({len(right)})", 100 * float(np.mean(right)), 99, "%"))
    return figures


def planted_faults(passed: Passed) -> list[Figure]:
    """Pictures with one thing other than the claims say: the share that the judge notices."""
    return [_noticed(passed, name, fault) for name, fault in FAULTS.items()] + [_faded(passed)]


def _noticed(passed: Passed, name: str, fault: Fault) -> Figure:
    rngs = (numpy_generator(0, f"bench judge {name}", number) for number in range(_SCENES))
    faulty = [(scene, fault(scene, rng)) for scene, rng in zip(passed.scenes, rngs, strict=True)]
    pairs = [(scene, wrong) for scene, wrong in faulty if wrong is not None]
    seen = passed.seen([draw(wrong, passed.size) for _, wrong in pairs])
    return _share(name, [scene for scene, _ in pairs], seen)


def _faded(passed: Passed) -> Figure:
    """A thing at a fifth of its opacity."""
    pictures = []
    for scene in passed.scenes:
        whole, without = (draw(one, passed.size).astype(np.float32) for one in (scene, Scene(scene.things[1:])))
        pictures.append(np.rint(without + 0.2 * (whole - without)).astype(np.uint8))
    return _share("faded to 20 %", passed.scenes, passed.seen(pictures))


def _share(name: str, scenes: list[Scene], seen: list[list[Seen]]) -> Figure:
    noticed = [not judge(claims_of(scene), found).all_right for scene, found in zip(scenes, seen, strict=True)]
    return at_least(f"noticed: {name} ({len(noticed)})", 100 * float(np.mean(noticed)), 98, "%")


def _with(scene: Scene, thing: Thing) -> Scene | None:
    """The scene with another first thing, where it fits."""
    return Scene((thing, *scene.things[1:])) if fits(thing, scene.things[1:]) else None


def _moved(scene: Scene, rng: np.random.Generator) -> Scene | None:
    thing = scene.things[0]
    steps = [replace(thing, x=thing.x + x, y=thing.y + y) for x, y in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1))]
    fitting = [one for one in steps if fits(one, scene.things[1:])]
    return _with(scene, one_of(fitting, rng)) if fitting else None


def _doubled(scene: Scene, rng: np.random.Generator) -> Scene | None:
    for _ in range(40):
        again = moved(scene.things[0], rng)
        if fits(again, scene.things):
            return Scene((*scene.things, again))
    return None


def _other(name: str, values: tuple[str, ...]) -> Fault:
    def changed(scene: Scene, rng: np.random.Generator) -> Scene | None:
        thing = scene.things[0]
        left = [value for value in values if value != getattr(thing, name)]
        return _with(scene, replace(thing, **{name: one_of(left, rng)}))  # type: ignore[arg-type]

    return changed


def _hexagon(scene: Scene, _: np.random.Generator) -> Scene | None:
    """Of a scene with a circle: a figure that is none of the world's in its place."""
    circles = [thing for thing in scene.things if thing.shape == "circle"]
    if not circles:
        return None
    return Scene(tuple(replace(t, shape=FOREIGN[0]) if t is circles[0] else t for t in scene.things))


FAULTS: dict[str, Fault] = {
    "moved by a tenth of the side": _moved,
    "recoloured": _other("colour", tuple(COLOURS)),
    "another shape": _other("shape", SHAPES),
    "another size": _other("size", tuple(SIZES)),
    "doubled": _doubled,
    "left out": lambda scene, _: Scene(scene.things[1:]),
    "a hexagon for a circle": _hexagon,
}


def main() -> int:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    folder = Path(os.environ.get("AUTOENCODER", "work/shapes/autoencoder"))
    autoencoder = Autoencoder.open(folder)
    size = autoencoder.content.picture_size
    return run((true_pictures, planted_faults), "judge", Passed(load_vae(autoencoder.model_folder, device="cpu"), size))


if __name__ == "__main__":
    sys.exit(main())
