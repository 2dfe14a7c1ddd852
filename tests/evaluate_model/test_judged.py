"""The judge of drawings, from captions, instructions, into holes and without text: right for what the world itself draws, wrong
for anything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stages.artifacts.latents import StoredDocument, StoredText, caption_of
from stages.evaluate_model.documents import kind_of, scene_of, with_thing_at_right
from stages.evaluate_model.judged import judge_drawings, judge_edits, judge_inpainted, judge_unconditional
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.sources.shapes.world import Scene, Thing, scene_to_json
from tests.evaluate_model.world import SIDE, Held, World, given, image_of, picture, thing


@pytest.fixture(scope="module", params=["new-claim", "new-thing", "alike"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_true_pictures_are_right_drawings_and_are_asked_for_by_their_caption(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world = World(kind, monkeypatch)
    part = judge_drawings(world.model, world.documents)
    shares = {name: value for name, value in part.figures.items() if not name.endswith("_count")}
    assert set(shares.values()) == {1.0}
    assert part.figures["text_to_image_count"] == len(world.documents) > 0
    (prompts,) = world.asked
    for prompt, document in zip(prompts, world.documents, strict=True):
        assert prompt.pieces == (TextPiece(caption_of(document)),)
        assert prompt.image_next
    assert [item.key for item in part.judged] == [document.key for document in world.documents]
    assert all(item.right and item.mode == "text_to_image" for item in part.judged)


def test_drawings_of_other_captions_are_wrong_and_come_apart_by_kind_and_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every other document is given an empty picture."""
    world = World("new-claim", monkeypatch)

    def answer(number: int, _prompt: Prompt) -> Output:
        return Output([picture() if number % 2 else image_of(world.held[number].pieces)], "drawn")

    monkeypatch.setattr(world, "answer", answer)
    part = judge_drawings(world.model, world.documents)
    assert [item.right for item in part.judged] == [number % 2 == 0 for number in range(len(world.held))]
    assert part.figures["text_to_image"] == 0.5
    assert part.figures["text_to_image_of_true_pictures"] == 1.0

    def share(name: str, chosen: list[int]) -> None:
        even = sum(number % 2 == 0 for number in chosen)
        assert part.figures[f"text_to_image_{name}"] == pytest.approx(even / len(chosen), abs=1e-4)
        assert part.figures[f"text_to_image_{name}_count"] == len(chosen)

    kinds = [kind_of(document) for document in world.documents]
    numbers = [len(scene_of(document).things) for document in world.documents]
    assert {"placed", "related", "counted"} < set(kinds)
    for name in set(kinds):
        share(name, [at for at, found in enumerate(kinds) if found == name])
    share("open", [at for at, found in enumerate(kinds) if found not in ("placed", "related")])
    assert set(numbers) == {1, 2, 3, 4}
    for number in set(numbers):
        share(f"of_{number}", [at for at, found in enumerate(numbers) if found == number])


RED_SQUARE = thing("square", "red", 0.2, 0.2)
BLUE_CIRCLE = thing("circle", "blue", 0.8, 0.8)
ALL = {"objects", "colours", "places", "relations", "with_sizes"}
DRAWN: dict[str, set[str]] = {
    "a large red square at the top-left and a blue circle": ALL,
    "a large red cross at the top-left and a blue circle": ALL - {"objects", "with_sizes"},
    "a large red square at the top-left and a cyan circle": ALL - {"colours", "with_sizes"},
    "a large red square at the top-right and a blue circle": ALL - {"places", "with_sizes"},
    "a small red square at the top-left and a blue circle": ALL - {"with_sizes"},
    "a red square left of a blue circle": ALL,
    "a red square below a blue circle": ALL - {"relations", "with_sizes"},
    "a red square, a blue circle and a cross": set(),
    "a red square": set(),
    "a red square and another thing, nothing blue": ALL - {"with_sizes"},
    "a red square and other things": set(),  # two more at least
}  # fmt: skip


def only(world: World, monkeypatch: pytest.MonkeyPatch, text: str, *things: Thing) -> None:
    """The world has one document left, of this caption and these things, which is what is drawn."""
    (first, *_) = world.documents
    labels = {"new": "claim", "caption": "mixed", "scenes": [scene_to_json(Scene(things))]}
    segments = tuple(replace(part, text=text) if isinstance(part, StoredText) else part for part in first.segments)
    document = StoredDocument(first.index, first.key, None, False, True, False, labels, segments, "pictures")
    world.held, world.documents = (Held(document, (TextPiece(text), picture(*things))),), [document]
    given(world, monkeypatch, [Output([picture(*things)], "drawn")])


@pytest.mark.parametrize("text", DRAWN)
def test_each_aspect_of_a_drawing_counts_for_itself(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    expected = DRAWN[text]
    world = World("new-claim", monkeypatch)
    only(world, monkeypatch, text, RED_SQUARE, BLUE_CIRCLE)
    figures = judge_drawings(world.model, world.documents).figures
    assert {name for name in ALL if figures[f"text_to_image_{name}"] == 1.0} == expected
    is_absent = "nothing" not in text
    assert figures["text_to_image"] == float(expected >= ALL - {"with_sizes"} and is_absent)


ONCE = {
    "a red square and a blue circle": [True, True],
    "a red square, a red square and a blue circle": [False, False, True],
    "a red square and a cyan circle": [True, False],
    "a square and a blue circle": [],  # a colour is open
}


@pytest.mark.parametrize("text", ONCE)
def test_claimed_things_are_counted_where_they_are_drawn_exactly_once(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    world, flags = World("new-claim", monkeypatch), ONCE[text]
    only(world, monkeypatch, text, RED_SQUARE, BLUE_CIRCLE)
    figures = judge_drawings(world.model, world.documents).figures
    if not flags:
        assert "exactly_once" not in figures
        return
    for name in ("exactly_once", "exactly_once_mixed"):
        assert figures[name] == pytest.approx(sum(flags) / len(flags), abs=1e-4)
        assert figures[f"{name}_count"] == len(flags)


FAINT = Thing("hexagon", "red", "large", 0.8, 0.8)
UNCONDITIONAL = [
    (),
    (RED_SQUARE,),
    (RED_SQUARE, BLUE_CIRCLE),
    (RED_SQUARE, FAINT),
    (RED_SQUARE, BLUE_CIRCLE, thing("cross", "cyan", 0.2, 0.8)),
]


def test_things_without_any_text_are_counted_against_the_law_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("new-claim", monkeypatch)
    given(world, monkeypatch, [Output([picture(*things)], "drawn") for things in UNCONDITIONAL])
    part = judge_unconditional(world.model, 5, 2)
    assert part.figures == {
        "unconditional_of_0": 0.2,
        "unconditional_of_1": 0.2,
        "unconditional_of_2": 0.4,
        "unconditional_of_3": 0.2,
        "unconditional_number_tv": 0.4,  # (.2 + .3 + .1 + .2) / 2 from 0, .5, .5, 0
        "unconditional_unclear": 0.2,
        "unconditional_count": 5,
    }
    assert [item.right for item in part.judged] == [False, True, True, False, False]
    assert world.asked == [[Prompt(image_next=True)] * 5]


def test_as_many_things_as_the_world_draws_have_no_distance_from_its_law(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("new-claim", monkeypatch)
    given(world, monkeypatch, [Output([picture(*things)], "drawn") for things in (UNCONDITIONAL[1], UNCONDITIONAL[2])])
    figures = judge_unconditional(world.model, 2, 2).figures
    assert (figures["unconditional_number_tv"], figures["unconditional_unclear"]) == (0.0, 0.0)


@pytest.mark.parametrize(("answer", "share"), [("after", 1.0), ("before", 0.0)])
def test_edits_are_right_where_the_instruction_is_carried_out(
    monkeypatch: pytest.MonkeyPatch, answer: str, share: float
) -> None:
    """Of a model that draws the second picture, and of one that gives the first one back."""
    world = World("heldout-edit", monkeypatch)
    if answer == "before":
        given(world, monkeypatch, [Output([each.pieces[0]], "drawn") for each in world.held])
    part = judge_edits(world.model, world.documents)
    kinds = {document.labels["edit"] for document in world.documents}
    assert kinds == {"colour", "size", "shape", "place", "remove", "add"}
    assert {part.figures[name] for name in ("edit", *(f"edit_{kind}" for kind in kinds))} == {share}
    assert part.figures["edit_of_true_pictures"] == 1.0
    assert part.figures["edit_count"] == len(world.documents)
    (prompts,) = world.asked
    for prompt, each in zip(prompts, world.held, strict=True):
        assert prompt.pieces == each.pieces[:2]  # not the picture that is asked for


def test_what_an_edit_does_not_name_stays_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved by a tenth of the picture, and still in its region where it can be, it is wrong; what moved or is new may be anywhere
    in the region that the instruction names."""
    world = World("heldout-edit", monkeypatch)
    answers, allowed = [], []
    for document in world.documents:
        before, after = scene_of(document, 0), scene_of(document, 1)
        still = {(each.x, each.y) for each in before.things}
        own = next((each for each in after.things if (each.x, each.y) not in still), None)
        chosen = own or after.things[0]
        by = 0.05 if own else 0.1
        candidates = (
            replace(chosen, x=chosen.x + across, y=chosen.y + down)
            for across, down in ((by, 0), (-by, 0), (0, by), (0, -by))
        )
        moved = next((each for each in candidates if each.region == chosen.region), chosen)
        others = [each for each in after.things if each is not chosen]
        answers.append(Output([picture(moved, *others)], "drawn"))
        allowed.append(own is not None or moved is chosen)
    assert {True, False} == set(allowed)
    given(world, monkeypatch, answers)
    assert [item.right for item in judge_edits(world.model, world.documents).judged] == allowed


def test_what_is_filled_in_is_judged_by_the_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    world = halves(monkeypatch)

    def answer(number: int, prompt: Prompt) -> Output:
        true = image_of(world.held[number].pieces)
        assert prompt.edit is not None
        assert prompt.edit.change_hw is not None
        assert torch.equal(prompt.edit.latent, true.latent)
        assert not prompt.edit.change_hw[:, : SIDE // 2].any()
        assert prompt.edit.change_hw[:, SIDE // 2 :].all()
        if prompt.pieces:
            return Output([true], "drawn")
        blank = true.latent.clone()
        blank[:, :, SIDE // 2 :] = 245  # the ground
        return Output([ImagePiece(blank)], "drawn")

    monkeypatch.setattr(world, "answer", answer)
    figures = judge_inpainted(world.model, world.documents).figures
    assert (figures["inpainted"], figures["inpainted_kept_error"]) == (1.0, 0.0)
    assert figures["inpainted_without_text"] == 0.0
    assert figures["inpainted_count"] == len(world.held)


def test_what_moved_outside_of_the_hole_is_measured_in_values_of_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The left third alone, brighter here and darker there by 10: whatever was drawn in the hole, and without wrapping."""
    world = halves(monkeypatch)

    def answer(number: int, _prompt: Prompt) -> Output:
        values = image_of(world.held[number].pieces).latent.clone().int()
        values[:, :, : SIDE // 3] += -10 if number % 2 else 10
        values[:, :, SIDE // 2 :] = 0
        assert values.min() >= 0
        assert values.max() <= 255
        return Output([ImagePiece(values.to(torch.uint8))], "drawn")

    monkeypatch.setattr(world, "answer", answer)
    assert judge_inpainted(world.model, world.documents).figures["inpainted_kept_error"] == 10.0


def halves(monkeypatch: pytest.MonkeyPatch) -> World:
    """The pairs of which the right half can be drawn again."""
    world = World("new-claim", monkeypatch)
    chosen = {document.key for document in with_thing_at_right(world.documents)}
    assert 0 < len(chosen) < len(world.held)
    world.held = tuple(each for each in world.held if each.document.key in chosen)
    world.documents = [each.document for each in world.held]
    return world
