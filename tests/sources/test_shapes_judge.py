"""What the judge of the shapes world must refuse (colours that nobody draws) and forgive (what an autoencoder does)."""

from __future__ import annotations

import numpy as np
import pytest

from stages.core.seeds import numpy_generator
from stages.sources.shapes.drawing import Pixels, coverage, draw
from stages.sources.shapes.judge import claims_of, judge, see
from stages.sources.shapes.language import ClaimedThing, after_turn, claims
from stages.sources.shapes.world import COLOURS, GROUND, SIZES, Scene, draw_scene

SCENES = [draw_scene(numpy_generator(0, "test judge", number)) for number in range(200)]


def disc(colour: tuple[int, int, int], size: int = 64) -> Pixels:
    """A large disc in the center."""
    picture = np.empty((size, size, 3), dtype=np.float32)
    picture[:] = GROUND
    share, rows, columns = coverage("circle", SIZES["large"], 0.5, 0.5, size)
    picture[rows, columns] += share[..., None] * (np.array(colour, dtype=np.float32) - picture[rows, columns])
    return np.rint(picture).astype(np.uint8)


def lossy(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Parts at half the resolution, then a 3 x 3 blur, a shift of all colours and noise."""
    size, half = len(picture), len(picture) // 2
    rough = picture.astype(np.float32)
    for top, left in 2 * rng.integers(0, half // 2, (4, 2)):
        part = rough[top : top + half, left : left + half]
        part[:] = part.reshape(half // 2, 2, half // 2, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    padded = np.pad(rough, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth = sum(padded[y : y + size, x : x + size] for y in range(3) for x in range(3)) / 9
    return np.clip(smooth + rng.uniform(-8, 8, 3) + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "colour",
    [(0, 0, 0), (70, 70, 70), (128, 128, 128), (240, 130, 30), (120, 70, 30), (110, 10, 10), (10, 10, 90),
     (120, 120, 20), (0, 110, 110)],
)  # fmt: skip
def test_a_colour_of_no_name_is_no_colour_of_the_world(colour: tuple[int, int, int]) -> None:
    seen = see(disc(colour))
    assert [(thing.shape, thing.colour) for thing in seen] == [("circle", "unclear")]
    for name in COLOURS:
        verdict = judge(claims(f"a {name} circle in the center"), seen)
        assert verdict.objects_right
        assert not verdict.colours_right


def test_every_colour_of_the_world_is_known() -> None:
    assert [see(disc(colour))[0].colour for colour in COLOURS.values()] == list(COLOURS)


@pytest.mark.parametrize("size", [48, 64])
def test_the_judge_is_patient_with_an_autoencoder(size: int) -> None:
    rng = numpy_generator(0, "test lossy", size)
    right = [judge(claims_of(scene), see(lossy(draw(scene, size), rng))).all_right for scene in SCENES]
    assert np.mean(right) >= 0.99


def test_specks_are_no_things() -> None:
    rng = numpy_generator(0, "test specks")
    for scene in SCENES[:20]:
        picture = draw(scene, 64)
        empty = np.flatnonzero((picture[:2, :62] == GROUND).all((0, 2)))
        left = int(empty[rng.integers(1, len(empty) - 2)])
        picture[:2, left : left + 2] = COLOURS["blue"]
        assert judge(claims_of(scene), see(picture)).all_right


def test_an_empty_picture_shows_nothing() -> None:
    assert see(draw(Scene(()), 64)) == []
    assert not judge(claims("a red circle"), []).all_right


def test_a_turn_is_read_in_the_wordings_that_a_caption_is() -> None:
    before = ClaimedThing("circle", "red", "small", "center")
    moved = ClaimedThing("circle", "red", "small", "top-left")
    for text in (
        "then it moves to the top-left: ",
        "Then it moves to  the top left.",
        "then it moves to the top left:",
    ):
        assert after_turn(before, text) == moved
    assert after_turn(before, "then it turns pink:") is None
    assert after_turn(before, "then it turns blue and becomes large:") is None
