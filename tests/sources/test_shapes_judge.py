"""What the judge of the shapes world must refuse (colours that nobody draws) and forgive (what an autoencoder does)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stages.core.seeds import numpy_generator
from stages.sources.shapes.claims import Claims, claims
from stages.sources.shapes.drawing import Pixels, coverage, draw
from stages.sources.shapes.judge import claims_of, judge, see
from stages.sources.shapes.world import COLOURS, GROUND, SIZES, Scene, Thing, draw_scene

SCENES = [draw_scene(numpy_generator(0, "test judge", number), 1 + number % 4) for number in range(120)]


def disc(colour: tuple[int, int, int], size: int = 64) -> Pixels:
    """A large disc in the center."""
    picture = np.empty((size, size, 3), dtype=np.float32)
    picture[:] = GROUND
    share, rows, columns = coverage("circle", SIZES["large"], 0.5, 0.5, size)
    picture[rows, columns] += share[..., None] * (np.array(colour, dtype=np.float32) - picture[rows, columns])
    return np.rint(picture).astype(np.uint8)


def lossy(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """A 3 x 3 blur that keeps half of each pixel, a shift of all colours and noise: 22 to 34 dB."""
    size = len(picture)
    padded = np.pad(picture.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth = sum(padded[y : y + size, x : x + size] for y in range(3) for x in range(3)) / 9
    rough = (smooth + picture) / 2
    return np.clip(rough + rng.uniform(-8, 8, 3) + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def painted(inside: Callable[[Any, Any], Any], amount: float = 1.0, size: int = 48) -> Pixels:
    """A red figure in the center; inside: of x and y as shares of a large thing's radius. amount: its opacity."""
    fine = ((np.arange(8 * size) + 0.5) / (8 * size) - 0.5) / SIZES["large"]
    share = inside(fine[None, :], fine[:, None]).reshape(size, 8, size, 8).mean((1, 3))[..., None]
    return np.rint(GROUND + amount * share * (np.array(COLOURS["red"]) - GROUND)).astype(np.uint8)


@pytest.mark.parametrize(
    "colour",
    [(0, 0, 0), (70, 70, 70), (128, 128, 128), (240, 130, 30), (120, 70, 30), (110, 10, 10), (10, 10, 90),
     (120, 120, 20), (0, 110, 110)],
)  # fmt: skip
def test_a_colour_of_no_name_is_no_colour_of_the_world(colour: tuple[int, int, int]) -> None:
    seen = see(disc(colour))
    assert [thing.colour for thing in seen] == ["unclear"]
    assert not any(judge(claims(f"a {name} circle in the center"), seen).colours_right for name in COLOURS)


def test_every_colour_of_the_world_is_known() -> None:
    assert [see(disc(colour))[0].colour for colour in COLOURS.values()] == list(COLOURS)


@pytest.mark.parametrize("size", [48, 64])
def test_the_judge_is_patient_with_an_autoencoder(size: int) -> None:
    rng = numpy_generator(0, "test lossy", size)
    right = [judge(claims_of(scene), see(lossy(draw(scene, size), rng))).all_right for scene in SCENES]
    assert np.mean(right) >= 0.99


@pytest.mark.parametrize(
    "inside",
    [
        lambda x, y: (x * x + y * y <= 1) & (x * x + y * y >= 0.25),
        lambda x, y: x * x + (y / 0.7) ** 2 <= 1,
        lambda x, y: (abs(x) <= 0.95) & (abs(y) <= 0.6),
        lambda x, y: (abs(x) <= (1 - y) * 0.54) & (y >= -0.82),
        lambda x, y: abs(x) + abs(y) <= 1,
    ],
    ids=["ring", "ellipse", "bar", "triangle on its head", "diamond"],
)
def test_another_figure_is_no_shape_of_the_world(inside: Callable[[Any, Any], Any]) -> None:
    assert [(thing.shape, thing.colour) for thing in see(painted(inside))] == [("unclear", "red")]


def test_a_ghost_is_a_thing_that_no_text_claims() -> None:
    def circle(x: Any, y: Any) -> Any:
        return x * x + y * y <= 1

    assert [thing.shape for thing in see(painted(circle))] == ["circle"]
    assert [thing.shape for thing in see(painted(circle, 0.3))] == ["unclear"]
    assert see(painted(circle, 0.1)) == []


def test_a_tinted_ground_is_refused() -> None:
    for scene in SCENES[:20]:
        picture = draw(scene, 48)
        assert judge(claims_of(scene), see(picture)).all_right
        assert not judge(claims_of(scene), see(np.where(picture == GROUND, np.uint8(200), picture))).objects_right


def test_many_specks_are_a_stain() -> None:
    for scene in SCENES[:20]:
        picture = draw(scene, 48)
        ground = (picture == GROUND).all(-1)
        ground[1::2] = ground[:, 1::2] = False
        picture[ground] = 0
        assert not judge(claims_of(scene), see(picture)).objects_right


def test_between_two_shapes_is_neither() -> None:
    """A square whose corners are rounded until it fits a circle as well."""
    seen = see(painted(lambda x, y: abs(x) ** 3 + abs(y) ** 3 <= 1))
    assert [thing.shape for thing in seen] == ["unclear"]


def test_more_things_than_any_caption_has_are_not_matched() -> None:
    thing = claims("a red circle in the center")
    assert thing is not None
    many = Claims(thing.things * 12)
    assert not judge(many, see(disc(COLOURS["red"])) * 12).all_right


def test_sizes_do_not_decide_which_thing_a_claim_means() -> None:
    """Two red circles whose sizes are swapped: places are what the headline counts, so places decide."""
    things = [Thing("circle", "red", size, x, 0.5) for size, x in (("large", 0.2), ("small", 0.8))]
    verdict = judge(
        claims("a small red circle on the left and a large red circle on the right"),
        see(draw(Scene(tuple(things)), 48)),
    )
    assert (verdict.objects_right, verdict.colours_right, verdict.places_right) == (True, True, True)
    assert not verdict.sizes_right


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


@pytest.mark.parametrize(
    "text", ["a red thing", "a thing", "a red circle and another thing", "a red circle and other things"]
)
def test_a_figure_of_no_name_is_no_thing_where_the_text_leaves_the_shape_open(text: str) -> None:
    """Nor is a ghost another thing: an open caption would forgive every blot."""
    ring = see(painted(lambda x, y: (x * x + y * y <= 1) & (x * x + y * y >= 0.25)))
    circle = [Thing("circle", "red", "small", 0.2, 0.2)] * text.startswith("a red circle")
    more = [Thing("cross", "blue", "small", 0.8, 0.8)] * text.endswith("things")
    assert not judge(claims(text), [*circle, *more, *ring]).right
    ghost = see(painted(lambda x, y: x * x + y * y <= 1, 0.3))
    assert not judge(claims(text), [*circle, *more, *ghost]).right
    whole = see(painted(lambda x, y: x * x + y * y <= 1))
    assert judge(claims(text), [*circle, *more, *whole]).right
