"""Faults of the world of shapes: what captions claim, what the judge takes for right, what is held out, which stories and edits there
are."""

from tests.mutants.mutant import Mutant

_ROOM = "stages/sources/shapes/"
_CLAIMS, _JUDGE, _WORLD = _ROOM + "claims.py", _ROOM + "judge.py", _ROOM + "world.py"
_OF_CLAIMS, _OF_WORLD = ("sources/test_shapes_claims.py",), ("sources/test_shapes.py",)
_OF_STORIES, _OF_EDITS = ("sources/test_shapes_stories.py",), ("sources/test_shapes_edits.py",)

MUTANTS = (
    Mutant("implied-absence-counts", "an absence that the things imply makes another claim of a caption, so that training may state what is held out", _CLAIMS, "sorted(map(_described, filter(self._adds, self.absent)))", "sorted(map(_described, self.absent))", _OF_CLAIMS),
    Mutant("hub-kept", "a relation without a first thing is one of the last relation's, however far back", _CLAIMS, "hub, self.hub = self.hub, None", "hub = self.hub", _OF_CLAIMS),
    Mutant("other-things-are-one", "other things are a single one", _CLAIMS, 'self.is_open = part == "other things"', "self.is_open = False", _OF_CLAIMS),
    Mutant("all-goes-on", 'what follows "all red" is read as if it belonged to the caption', _CLAIMS, "        self.is_closed = True\n        if not self.things or self.is_open or any", "        if not self.things or self.is_open or any", _OF_CLAIMS),
    Mutant("below-is-above", '"a below b" and "b above a" are two claims: one is held out and the other trained', _CLAIMS, 'if name in ("right of", "below")', 'if name == "right of"', _OF_CLAIMS),
    Mutant("takes-swapped", "the other thing of a story takes after the first", _CLAIMS, 'thing, other = (first, second) if found["thing"] == "first" else (second, first)', 'thing, other = (second, first) if found["thing"] == "first" else (first, second)', _OF_STORIES),
    Mutant("any-claim-held-out", "a caption is held out if one of its claims is: training states the others", _CLAIMS, "return all(one_in_ten(key)", "return any(one_in_ten(key)", (*_OF_CLAIMS, *_OF_WORLD)),
    Mutant("nothing-else-ignored", "a text that says that there is nothing else is true where there is more", _JUDGE, "else missing == 0 or not claimed.is_closed", "else True", _OF_CLAIMS),
    Mutant("absence-ignored", "what a caption says not to be there may be there", _JUDGE, "return Verdict(shapes, colours, places, related, sizes, absent)", "return Verdict(shapes, colours, places, related, sizes, True)", _OF_CLAIMS),
    Mutant("blots-are-things", "a figure of no name is right where the text leaves the shape open", _JUDGE, "    shapes &= all(thing.shape != UNCLEAR for thing in seen)\n", "", ("sources/test_shapes_judge.py",)),
    Mutant("more-than-once", "a thing that is claimed once may be there several times", _JUDGE, "asked.count(each) == shown.count(each)", "asked.count(each) <= shown.count(each)", _OF_CLAIMS),
    Mutant("close-relations", "captions state relations between things that are nearly level", _ROOM + "captions.py", "(second.x, second.y), RELATION_MARGIN)", "(second.x, second.y), 0.0)", _OF_CLAIMS),
    Mutant("places-at-borders", "captions name the place of a thing on the border of two", _WORLD, "return None if near else self.region", "return self.region", _OF_WORLD),
    Mutant("new-things-drawn", "training pictures show held-out combinations", _WORLD, "if not thing.heldout and (thing.place", "if (thing.place", _OF_WORLD),
    Mutant("held-out-claims-stated", "training captions state held-out claims", _ROOM + "source.py", "    return claimed.may_be_trained", "    return True", _OF_WORLD),
    Mutant("losses-of-new", "held-out losses are measured on new claims and new things too", _ROOM + "source.py", "has_heldout_loss=new is None", "has_heldout_loss=True", _OF_WORLD),
    Mutant("short-held-out-stories", "held-out stories are shorter than those for training", _ROOM + "stories.py", "    for _ in range(turns):", "    for _ in range(1 if heldout else turns):", _OF_STORIES),
    Mutant("first-text-held-out", "a story begins with a text that captions for training never state", _ROOM + "stories.py", "if first is None or ((named := claims(first)) and not named.may_be_trained):", "if first is None:", (*_OF_WORLD, *_OF_STORIES)),
    Mutant("held-out-edits-asked", "training asks for held-out edits", _ROOM + "edits.py", " and one.is_heldout == heldout", "", _OF_EDITS),
    Mutant("moves-unseen", "a thing that is to move may stay where it is but for a border", _ROOM + "edits.py", " or distance(thing, changed) < LEAST_MOVE", "", _OF_EDITS),
)  # fmt: skip
