"""Pictures that look a little like photographs, each with a caption that says what is in it. Made of noise, light and blobs.

A ground (1/f noise and a gradient in its colours), up to three things on it that are shaded like solids, light from one side, and
grain. Half of the captions are short, half are long and name the place and size of every thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 80, 96
Pixels = np.ndarray[Any, np.dtype[np.float64]]
# Of each ground: colour at the top and at the bottom, contrast, and the slope of its noise (amplitude ~ 1 / frequency^slope).
GROUNDS = {
    "a cloudy sky": ((0.35, 0.55, 0.9), (0.85, 0.9, 0.95), 0.16, 1.6),
    "sand": ((0.8, 0.68, 0.45), (0.7, 0.56, 0.34), 0.09, 0.6),
    "grass": ((0.3, 0.5, 0.15), (0.18, 0.38, 0.1), 0.12, 0.4),
    "the sea": ((0.2, 0.4, 0.6), (0.05, 0.25, 0.35), 0.1, 1.1),
    "a sunset": ((0.4, 0.2, 0.45), (0.98, 0.6, 0.25), 0.07, 1.8),
    "grey stone": ((0.55, 0.55, 0.56), (0.42, 0.41, 0.4), 0.14, 1.0),
}
COLOURS = {"red": (0.8, 0.12, 0.1), "yellow": (0.92, 0.8, 0.15), "blue": (0.15, 0.25, 0.8), "white": (0.93, 0.93, 0.9)}
KINDS = {"ball": (1.0, 1.0), "egg": (1.35, 0.9), "stick": (3.0, 0.3)}  # half axes, times the radius
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
NUMBERS = ("no", "one", "two", "three")


@dataclass(frozen=True)
class Thing:
    """A solid on the ground. row, column: of nine places; large: its size."""

    colour: str
    kind: str
    row: int
    column: int
    large: bool

    @property
    def words(self) -> str:
        return f"{self.colour} {self.kind}"


def photograph(rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A picture and its caption."""
    ground = str(rng.choice(list(GROUNDS)))
    places = rng.choice(9, rng.integers(0, 4), replace=False)
    things = [
        Thing(
            str(rng.choice(list(COLOURS))), str(rng.choice(list(KINDS))), int(place) // 3, int(place) % 3, bool(large)
        )
        for place, large in zip(places, rng.random(len(places)) < 0.4, strict=True)
    ]
    bright, grainy, from_left = (bool(value) for value in rng.random(3) < 0.5)
    pixels = _ground(rng, ground)
    for thing in things:
        _draw(rng, pixels, thing, from_left=from_left)
    across = np.linspace(1.1, 0.85, WIDTH)[None, :, None]
    pixels = pixels * (across if from_left else across[:, ::-1]) * (1.05 if bright else 0.6)
    pixels = pixels + rng.normal(0, 0.05 if grainy else 0.008, pixels.shape)
    caption = _long(ground, things, bright, grainy, from_left) if rng.random() < 0.5 else _short(ground, things)
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)), caption


def write_photographs(folder: Path, count: int) -> None:
    """`count` pictures with a .txt each, the same ones each time."""
    folder.mkdir(parents=True)
    for number in range(count):
        image, caption = photograph(np.random.default_rng([18, number]))
        image.save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text(caption)


def _ground(rng: np.random.Generator, name: str) -> Pixels:
    top, bottom, contrast, slope = GROUNDS[name]
    down = np.linspace(0, 1, HEIGHT)[:, None, None]
    colour = np.array(top) * (1 - down) + np.array(bottom) * down
    made: Pixels = colour + contrast * _noise(rng, slope)[:, :, None] * np.array([1.0, 0.95, 0.85])
    return made


def _noise(rng: np.random.Generator, slope: float) -> Pixels:
    """1/f noise of mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    values = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(HEIGHT, WIDTH))) / frequency**slope, s=(HEIGHT, WIDTH))
    made: Pixels = (values - values.mean()) / values.std()
    return made


def _draw(rng: np.random.Generator, pixels: Pixels, thing: Thing, *, from_left: bool) -> None:
    """Draw a thing with its shade, softly bounded, and its shadow."""
    radius = 12.0 if thing.large else 7.0
    row = HEIGHT * (thing.row + 0.5) / 3 + rng.uniform(-4, 4)
    column = 8 + (WIDTH - 16) * (thing.column + 0.5) / 3 + rng.uniform(-4, 4)
    turn = rng.uniform(0, np.pi)
    long, short = (radius * axis for axis in KINDS[thing.kind])
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    side = -1.0 if from_left else 1.0

    def distance(down: float, right: float) -> Pixels:
        dy, dx = y - row - down, x - column - right
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        found: Pixels = np.hypot(along / long, across / short)
        return found

    shadow = _inside(distance(0.3 * radius, -side * 0.4 * radius), short)
    pixels *= 1 - 0.45 * shadow[:, :, None]
    body = _inside(distance(0, 0), short)[:, :, None]
    light = 1.15 - 0.55 * distance(-0.35 * short, side * 0.35 * short).clip(0, 1.6)
    pixels *= 1 - body
    pixels += body * np.array(COLOURS[thing.colour]) * light[:, :, None].clip(0.2, 1.2)


def _inside(distance: Pixels, radius: float) -> Pixels:
    made: Pixels = ((1 - distance) * radius + 0.5).clip(0, 1)
    return made


def _short(ground: str, things: list[Thing]) -> str:
    return f"{_listed([f'a {thing.words}' for thing in things])} on {ground}" if things else ground


def _long(ground: str, things: list[Thing], bright: bool, grainy: bool, from_left: bool) -> str:
    light = f"{'Bright' if bright else 'Dim'} light falls from the {'left' if from_left else 'right'}"
    many = f"{NUMBERS[len(things)]} {'thing' if len(things) == 1 else 'things'}"
    said = [f"A photograph of {ground} with {many} on it."]
    for thing in things:
        where = f"{ROWS[thing.row]} {COLUMNS[thing.column]}"
        said.append(f"There is a {'large' if thing.large else 'small'} {thing.words} at the {where}.")
    return " ".join([*said, f"{light}, and the picture is {'grainy' if grainy else 'clean'}."])


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
