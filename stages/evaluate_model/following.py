"""Reads a document as a story of the shapes world: what each picture must show, after the texts and pictures before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stages.coders.pixels import Pixels
from stages.generation.prompts import ImagePiece, Piece, TextPiece
from stages.sources.shapes.claims import ClaimedThing, Claims, after_turn, after_two, claims, plain_text
from stages.sources.shapes.judge import judge, see

_ANY = ClaimedThing()


class StoryReader:
    """Follows a story picture by picture.

    Args:
        first: what its first picture shows, where that is given.
    """

    def __init__(self, first: ClaimedThing | None = None) -> None:
        self.shown = [] if first is None else [first]
        self.is_of_two = False
        self.is_over = False

    def follow(self, pieces: Sequence[Piece], pictures: Sequence[Pixels]) -> tuple[list[bool], bool]:
        """For each picture whether it shows what the story makes of the pictures before it; and whether a story may end there:
        each text has its picture, and two things are followed by a third. A text that no story has there, and a picture without
        a text, make the picture and all after it wrong.

        pictures: those of the image pieces, in order.
        """
        remaining, right = list(pictures), []
        text: str | None = None
        for piece in pieces:
            if isinstance(piece, TextPiece):
                text = piece.text
                continue
            assert isinstance(piece, ImagePiece)
            right.append(self._is_right(text, remaining.pop(0)))
            text = None
        return right, text is None and not (self.is_of_two and len(self.shown) == 2)

    def _is_right(self, text: str | None, picture: Pixels) -> bool:
        expected = None if text is None or self.is_over else self._expected(text)
        if expected is None:
            self.is_over = True
            return False
        seen = see(picture)
        right = judge(Claims((expected,)), seen).all_right and "unclear" not in (seen[0].shape, seen[0].colour)
        if not right and expected == _ANY:
            self.is_over = True  # nothing is known of the thing that all else is about
        elif right:  # what the text leaves open is what the picture shows
            (thing,) = seen
            expected = replace(ClaimedThing(thing.shape, thing.colour, thing.size), at=(thing.x, thing.y))
        self.shown.append(expected)
        return right

    def _expected(self, text: str) -> ClaimedThing | None:
        """What the picture after the text must show; None where no story has the text there."""
        number = len(self.shown)
        if number == 0:
            return first_of_story(text)
        if number == 1 and plain_text(text) == "second this":
            self.is_of_two = True
            return _ANY
        if self.is_of_two:
            return after_two(self.shown[0], self.shown[1], text) if number == 2 else None
        return after_turn(self.shown[-1], text)


def first_of_story(text: str) -> ClaimedThing | None:
    """What a story that begins with the text says of its first picture; None where it begins no story."""
    plain = plain_text(text)
    if plain == "first this":
        return _ANY
    claimed = claims(text) if plain.startswith("first ") else None
    return claimed.things[0] if claimed is not None and claimed == Claims(claimed.things[:1]) else None
