"""Faults of evaluation: what is asked, of which documents, and what counts as right. The first three were planted by hand once, and no
test saw them."""

from tests.mutants.mutant import Mutant

_ROOM = "stages/evaluate_model/"
_DRAWINGS, _TEXTS, _STORIES = _ROOM + "judged.py", _ROOM + "judged_text.py", _ROOM + "judged_stories.py"
_OF_DRAWINGS, _OF_TEXTS = ("evaluate_model/test_judged.py",), ("evaluate_model/test_judged_text.py",)
_OF_STORIES = ("evaluate_model/test_judged_stories.py",)

MUTANTS = (
    Mutant("every-drawing-right", "every drawing counts as right", _DRAWINGS, 'shares.add("text_to_image", verdict.right)', 'shares.add("text_to_image", True)', _OF_DRAWINGS),
    Mutant("understood-is-right", "a description is right if it is understood", _TEXTS, 'shares.add("image_to_text", verdict.claims_true)', 'shares.add("image_to_text", verdict.understood)', _OF_TEXTS),
    Mutant("free-without-text", "free documents need no text that fits", _STORIES, "right = ended and is_pair and verdict_of(text_of(output.pieces), pictures[0]).right", "right = ended and is_pair", _OF_STORIES),
    Mutant("swap-unread", "a story with another first picture is judged as if it had its own", _STORIES, "right = _shows(picture, swap.expected)", "right = _shows(picture, swap.unchanged)", _OF_STORIES),
    Mutant("story-sizes-free", "the thing of a story may have any size", _STORIES, "return judge(Claims((thing,)), see(picture)).all_right", "return judge(Claims((thing,)), see(picture)).right", _OF_STORIES),
    Mutant("free-story-starts", "a free story is right if its first picture is", _STORIES, "len(flags) > 1 and all(flags)", "len(flags) > 1 and flags[0]", _OF_STORIES),
    Mutant("given-picture-unread", "a story is continued from anything, not from the picture that is given", _STORIES, "StoryReader(claim_of(_thing(story, 0)))", "StoryReader()", _OF_STORIES),
    Mutant("continued-endless", "a story that the model does not end counts as continued", _STORIES, 'all_right = output.ended == "eos" and is_whole', "all_right = is_whole", _OF_STORIES),
    Mutant("variation-doubled", "the distance from the law of the world is twice the total variation", _DRAWINGS, "for number in shares) / 2, 4)", "for number in shares), 4)", _OF_DRAWINGS),
    Mutant("relations-open", "captions of relations count among those that leave the arrangement open", _DRAWINGS, '_NOT_OPEN = ("placed", "related")', '_NOT_OPEN = ("placed",)', _OF_DRAWINGS),
    Mutant("ceiling-of-drawn", "the ceiling of drawings is measured on the drawn pictures, not on the true ones", _DRAWINGS, "verdict_of(text, true_picture).right", "verdict_of(text, picture).right", _OF_DRAWINGS),
    Mutant("edits-forget-places", "things that an instruction does not name may go anywhere in their region", _DRAWINGS, "return claim if (thing.x, thing.y) in still else", "return claim if not still else", _OF_DRAWINGS),
    Mutant("relations-turn-all", "all relations of a caption are turned around, which asks more than one question", _TEXTS, ", text, count=1)", ", text)", _OF_TEXTS),
    Mutant("named-is-complete", "a description is complete if it names everything, true or not", _TEXTS, "verdict.claims_true and verdict.complete", "verdict.complete", _OF_TEXTS),
    Mutant("kinds-in-order", "the documents that are judged are those of the first kind of caption", _ROOM + "documents.py", "return [pair for each in rounds for pair in each if pair is not None]", "return pairs", ("evaluate_model/test_documents.py",)),
    Mutant("new-is-not-asked", "documents of every side are judged as those of one", _ROOM + "documents.py", ' if pair.labels.get("new", "") == new]', "]", ("evaluate_model/test_documents.py",)),
    Mutant("tasks-share-draws", "all tasks have the same random draws", _ROOM + "judging.py", 'derive_seed(self.seed, "eval", task)', 'derive_seed(self.seed, "eval")', _OF_TEXTS),
    Mutant("alike-unnamed", "figures of documents like those of training are named as those of new claims", _ROOM + "stage.py", '(alike, "alike_")', '(alike, "")', ("evaluate_model/test_stage.py",)),
    Mutant("story-goes-on", "a text that no story has there makes its own picture wrong, but none after it", _ROOM + "following.py", "            self.is_over = True\n            return False", "            return False", _OF_STORIES),
    Mutant("two-are-enough", "a story of two things may end before a third picture takes after both", _ROOM + "following.py", "return right, text is None and not (self.is_of_two and len(self.shown) == 2)", "return right, text is None", _OF_STORIES),
    Mutant("likelihood-without-end", "a text is as likely as one that goes on with padding", "stages/generation/likelihood.py", "[*sequence.ids[start:], loaded.text.eos]", "[*sequence.ids[start:], loaded.text.pad]", ("generation/test_likelihood.py",)),
)  # fmt: skip
