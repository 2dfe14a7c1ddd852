"""The judge of stories: continued as the model likes, with one picture asked for, and with the picture of another story."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stages.artifacts.latents import StoredDocument
from stages.coders.pixels import Pixels
from stages.evaluate_model.documents import scene_of, texts_of
from stages.evaluate_model.following import StoryReader, first_of_story
from stages.evaluate_model.judging import Evaluated, Judged, Shares, TaskScores, latent_of, text_of, verdict_of
from stages.generation.prompts import ImagePiece, Prompt, TextPiece
from stages.sources.shapes.claims import ClaimedThing, Claims, after_turn, after_two, plain_text
from stages.sources.shapes.judge import claim_of, judge, see
from stages.sources.shapes.stories import CHANGES
from stages.sources.shapes.world import Thing, fits, is_heldout


@dataclass(frozen=True)
class Swap:
    """A story that is given the first picture of another one. expected: what its text makes of that picture. unchanged: what it
    makes of its own."""

    story: StoredDocument
    other: StoredDocument
    text: str
    what: str
    expected: ClaimedThing
    unchanged: ClaimedThing


def judge_continued(model: Evaluated, stories: list[StoredDocument]) -> TaskScores:
    """First text and picture are given, and the model goes on as it likes: the share of documents that it ends by itself, of
    at least one text and picture more, with every text one that a story has there and every picture what the texts make of the
    pictures before it."""
    prompts = [Prompt(model.pieces(story)[:2], max_images=model.generation.max_images) for story in stories]
    shares, judged = Shares(), []
    for story, output in zip(stories, model.generate("continue", prompts), strict=True):
        pictures = model.decode([piece.latent for piece in output.pieces if isinstance(piece, ImagePiece)])
        right, is_whole = StoryReader(claim_of(_thing(story, 0))).follow(output.pieces, pictures)
        all_right = output.ended == "eos" and is_whole and bool(right) and all(right)
        shares.add("continued", all_right)
        shares.add("continued_pictures", *right)
        shares.add_aspect("continued_ended", output.ended == "eos")
        last = pictures[-1] if pictures else None
        judged.append(Judged("continued", story.key, text_of(output.pieces), all_right, last))
    return TaskScores(shares.figures(), judged)


def judge_free(model: Evaluated, count: int) -> TaskScores:
    """From nothing: the share of documents that the model ends by itself and that are documents of the world: a caption that is
    true of its picture, or a story (it begins with "first") that goes on for a picture or more and is right throughout."""
    outputs = model.generate("free", [Prompt(max_images=model.generation.max_images)] * count)
    shares, judged = Shares(), []
    for number, output in enumerate(outputs):
        pictures = model.decode([piece.latent for piece in output.pieces if isinstance(piece, ImagePiece)])
        ended = output.ended == "eos"
        first = output.pieces[0] if output.pieces else None
        if isinstance(first, TextPiece) and first_of_story(first.text) is not None:
            flags, is_whole = StoryReader().follow(output.pieces, pictures)
            right = ended and is_whole and len(flags) > 1 and all(flags)
        else:
            is_pair = len(output.pieces) == 2 and len(pictures) == 1
            right = ended and is_pair and verdict_of(text_of(output.pieces), pictures[0]).right
        shares.add("free", right)
        shares.add_aspect("free_with_picture_and_end", ended and bool(pictures))
        last = pictures[-1] if pictures else None
        judged.append(Judged("free", f"free-{number:04d}", text_of(output.pieces), right, last))
    return TaskScores(shares.figures(), judged)


def judge_turned(model: Evaluated, stories: list[StoredDocument]) -> TaskScores:
    """All of a story but its last picture is given, which is drawn: the share of pictures whose thing is, in every attribute,
    what the last text makes of the pictures before it; by what changes, and apart for stories of two things."""
    drawn = model.draw("turn", [Prompt(model.pieces(story)[:-1], image_next=True) for story in stories])
    truth = model.decode([latent_of(model.pieces(story)[-1:]) for story in stories])
    shares, judged = Shares(), []
    for story, picture, true_picture in zip(stories, drawn, truth, strict=True):
        name = "turned" if story.labels["story"] == "turns" else "turned_two"
        what, expected = _last_change(story)
        right = _shows(picture, expected)
        shares.add(name, right)
        shares.add(f"{name}_{what}", right)
        shares.add_aspect(f"{name}_of_true_pictures", _shows(true_picture, expected))
        judged.append(Judged(name, story.key, "".join(texts_of(story)), right, picture, Claims((expected,))))
    return TaskScores(shares.figures(), judged)


def judge_swapped(model: Evaluated, stories: list[StoredDocument]) -> TaskScores:
    """The first change of stories that say nothing of their first picture ("first this:"), with the first picture of another
    story given: the share of pictures of what the text makes of the picture that is given; and of what it makes of the story's
    own, as it would be without reading the picture."""
    swaps = swaps_of(stories)
    prompts = []
    for swap in swaps:
        first, _, turn = model.pieces(swap.story)[:3]
        prompts.append(Prompt((first, model.pieces(swap.other)[1], turn), image_next=True))
    shares, judged = Shares(), []
    for swap, picture in zip(swaps, model.draw("swap", prompts), strict=True):
        right = _shows(picture, swap.expected)
        shares.add("swapped", right)
        shares.add(f"swapped_{swap.what}", right)
        shares.add_aspect("swapped_unchanged", _shows(picture, swap.unchanged))
        key = f"{swap.story.key} with the picture of {swap.other.key}"
        judged.append(Judged("swapped", key, swap.text, right, picture, Claims((swap.expected,))))
    return TaskScores(shares.figures(), judged)


def swaps_of(stories: list[StoredDocument]) -> list[Swap]:
    """For each story that says nothing of its first picture the next other one whose first picture can stand in for it."""
    swaps = []
    for number, story in enumerate(stories):
        if story.labels["story"] == "turns" and plain_text(texts_of(story)[0]) == "first this":
            others = [*stories[number + 1 :], *stories[:number]]
            found = (swap for other in others if (swap := _swap(story, other)) is not None)
            swaps += [swap for swap in [next(found, None)] if swap is not None]
    return swaps


def _swap(story: StoredDocument, other: StoredDocument) -> Swap | None:
    """None where the change would not be seen, the pictures would not differ in shape or colour, or what is asked for is not in
    the pictures of training, new things and things over the edge."""
    text, thing = texts_of(story)[1], _thing(other, 0)
    expected, unchanged = (after_turn(claim_of(each), text) for each in (thing, _thing(story, 0)))
    assert expected is not None, text
    assert unchanged is not None, text
    region = expected.place or thing.region
    assert expected.colour is not None
    assert expected.shape is not None
    assert expected.size is not None
    changed = replace(thing, colour=expected.colour, shape=expected.shape, size=expected.size)
    is_visible = changed != thing or region != thing.region
    differs = (expected.shape, expected.colour) != (unchanged.shape, unchanged.colour)
    if not is_visible or not differs or not fits(changed, ()) or is_heldout(changed.colour, changed.shape, region):
        return None
    return Swap(story, other, text, _what_changes(thing, changed), expected, unchanged)


def _last_change(story: StoredDocument) -> tuple[str, ClaimedThing]:
    """What changes last, and what the thing is after it."""
    text = texts_of(story)[-1]
    if story.labels["story"] == "turns":
        before = _thing(story, -2)
        what, expected = _what_changes(before, _thing(story, -1)), after_turn(claim_of(before), text)
    else:
        what = next(what for what in CHANGES if what in text.split())
        expected = after_two(claim_of(_thing(story, 0)), claim_of(_thing(story, 1)), text)
    assert expected is not None, text
    return what, expected


def _what_changes(before: Thing, after: Thing) -> str:
    return next(
        (what for what in ("colour", "size", "shape") if getattr(before, what) != getattr(after, what)), "place"
    )


def _thing(story: StoredDocument, number: int) -> Thing:
    (thing,) = scene_of(story, number).things
    return thing


def _shows(picture: Pixels, thing: ClaimedThing) -> bool:
    """Whether it shows this thing alone."""
    return judge(Claims((thing,)), see(picture)).all_right
