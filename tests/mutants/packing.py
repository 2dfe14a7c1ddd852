"""Faults of packing: sides, order, dropped captions, long documents, how often a document comes."""

from tests.mutants.mutant import Mutant

_STAGE, _LENGTHS = "stages/pack_sequences/stage.py", "stages/pack_sequences/lengths.py"

MUTANTS = (
    Mutant("groups-split", "documents are held out one by one: those of a group are on both sides", _STAGE, "np.unique(groups, return_inverse=True)", "np.unique(np.arange(len(groups)), return_inverse=True)", ("pack_sequences/test_pack.py",)),
    Mutant("drops-where-image-first", "captions after their image are dropped too: the image stays as if it began a document", _STAGE, "< self.pack.condition_dropout) & text_first", "< self.pack.condition_dropout)", ("pack_sequences/test_draws.py",)),
    Mutant("drops-unmarked", "documents whose caption was dropped are not marked as such: their images get the noise limit", _STAGE, "dropped.append(drop & one.pairs() & free)", "dropped.append(drop & False)", ("pack_sequences/test_draws.py",)),
    Mutant("one-order", "every pass has the same orders and the same dropped captions", _STAGE, 'hashed_uniform(self.keys[chosen], self.seed, f"pack {purpose}", *index)', 'hashed_uniform(self.keys[chosen], self.seed, f"pack {purpose}", *index[1:])', ("pack_sequences/test_draws.py",)),
    Mutant("drops-once-chosen", "order and drop are one draw: captions are dropped more often than the share says", _STAGE, 'self._draws("drop", chosen, number, copy)', 'self._draws("order", chosen, number, copy)', ("pack_sequences/test_draws.py",)),
    Mutant("cut-documents-end", "a document that was cut where the row ends is closed with EOS", _LENGTHS, "eos.append(bool(pairs[index]))", "eos.append(True)", ("pack_sequences/test_mix.py",)),
    Mutant("pieces-begin", "every piece of a long text begins with BOS, as if it were a document", _LENGTHS, "start, left, first = start + size, left - size, False", "start, left, first = start + size, left - size, True", ("pack_sequences/test_pieces.py",)),
    Mutant("mirrored-once", "an image is mirrored in all passes or in none", _STAGE, '"pack mirror", number, copy)', '"pack mirror")', ("pack_sequences/test_mix.py",)),
    Mutant("balance-without-drops", "the mixture of text and images does not count what dropped captions take away", _STAGE, "captions * pack.caption_first * pack.condition_dropout", "captions * 0 * pack.condition_dropout", ("pack_sequences/test_mix.py",)),
    Mutant("never-image-first", "no document is marked as one that begins with its image: none gets the noise limit", "stages/pack_sequences/layout.py", "begins_with_image(units).astype(np.int64)", "np.zeros(len(units), np.int64)", ("pack_sequences/test_draws.py",)),
    Mutant("heldout-drops", "captions are dropped on the held-out side too", _STAGE, "self.free_order[chosen], text_first, nothing)\n", 'self.free_order[chosen], text_first, self._draws("drop", chosen) < self.pack.condition_dropout)\n', ("pack_sequences/test_draws.py",)),
    Mutant("copies-alike", "the copies of a document in a pass have one order", _STAGE, 'self._draws("order", chosen, number, copy)', 'self._draws("order", chosen, number)', ("pack_sequences/test_draws.py",)),
    Mutant("document-mirrored", "the images of a document are mirrored together", _STAGE, "keys[images] + segments.latent_row[images]", "keys[images]", ("pack_sequences/test_draws.py",)),
    Mutant("heldout-sorted", "the first rows of the held-out side have captions first, the last ones images", _STAGE, '"heldout order"', '"heldout place"', ("pack_sequences/test_draws.py",)),
)  # fmt: skip
