"""Faults of the model: mask, positions, time, initial weights."""

from tests.mutants.mutant import Mutant

_TESTS = ("model",)

MUTANTS = (
    Mutant("private-queries", "the patches of a private image see nothing but their image, instead of being seen by it alone", "stages/model/attention.py", "None if private_GL is None else private_GL[:, None, :]", "None if private_GL is None else private_GL[:, :, None]", ("model", "train_model/test_context.py")),
    Mutant("grid-halves", "2-D rotary positions: rows take the fast angles and columns the slow ones", "stages/model/rotary.py", "positions.repeat(1, head_dim // 4)", "positions.repeat_interleave(head_dim // 4, 1)", _TESTS),
    Mutant("grid-columns", "2-D rotary positions: the grid of a wide image is counted by its height", "stages/model/transformer.py", "i.latents_IChw.shape[-1] // side", "i.latents_IChw.shape[-2] // side", _TESTS),
    Mutant("time-coarse", "the embedding of t has no slow sinusoids: it repeats within the 1,000 levels", "stages/model/patches.py", "torch.exp(-math.log(10_000) * torch.arange(half, device=t_I.device) / half)", "torch.exp(-math.log(100) * torch.arange(half, device=t_I.device) / half)", _TESTS),
    Mutant("qk-norm-of-queries", "query-key norm leaves keys as they are", "stages/model/transformer.py", "self.key_norm(k), v", "k, v", _TESTS),
    Mutant("residuals-grow", "the initial weights of layers that add to the stream do not shrink with depth", "stages/model/transformer.py", "std /= (2 * self.config.layers) ** 0.5", "std /= 2**0.5", _TESTS),
)  # fmt: skip
