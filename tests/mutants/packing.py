"""Faults of packing: sides, order, dropped captions, long documents, how often a document comes."""

from tests.mutants.mutant import Mutant

_STAGE, _LENGTHS = "stages/pack_sequences/stage.py", "stages/pack_sequences/lengths.py"
_TESTS = ("pack_sequences",)

MUTANTS = (
    Mutant("groups-split", "documents are held out one by one: those of a group are on both sides", _STAGE, "np.unique(groups, return_inverse=True)", "np.unique(np.arange(len(groups)), return_inverse=True)", _TESTS),
    Mutant("drops-where-image-first", "captions after their image are dropped too: the image stays as if it began a document", _STAGE, "< self.pack.condition_dropout) & text_first", "< self.pack.condition_dropout)", _TESTS),
    Mutant("drops-unmarked", "documents whose caption was dropped are not marked as such: their images get the noise limit", _STAGE, "dropped.append(drop & one.pairs() & free)", "dropped.append(drop & False)", _TESTS),
    Mutant("one-order", "every pass has the same orders and the same dropped captions", _STAGE, 'hashed_uniform(self.keys[chosen], self.seed, f"pack {purpose}", *index)', 'hashed_uniform(self.keys[chosen], self.seed, f"pack {purpose}", *index[1:])', _TESTS),
    Mutant("drops-once-chosen", "order and drop are one draw: captions are dropped more often than the share says", _STAGE, 'self._draws("drop", chosen, number, copy)', 'self._draws("order", chosen, number, copy)', _TESTS),
    Mutant("cut-documents-end", "a document that was cut where the row ends is closed with EOS", _LENGTHS, "eos.append(bool(pairs[index]))", "eos.append(True)", _TESTS),
    Mutant("pieces-begin", "every piece of a long text begins with BOS, as if it were a document", _LENGTHS, "start, left, first = start + size, left - size, False", "start, left, first = start + size, left - size, True", _TESTS),
    Mutant("mirrored-once", "an image is mirrored in all passes or in none", _STAGE, '"pack mirror", number, copy)', '"pack mirror")', _TESTS),
    Mutant("balance-without-drops", "the mixture of text and images does not count what dropped captions take away", _STAGE, "captions * pack.caption_first * pack.condition_dropout", "captions * 0 * pack.condition_dropout", _TESTS),
    Mutant("image-first-before-order", "whether a document begins with its image is asked before its order is drawn", "stages/pack_sequences/layout.py", "begins_with_image(units).astype(np.int64)", "begins_with_image(units).astype(np.int64) * (rows < 0)", _TESTS),
)  # fmt: skip
