"""Faults of the model: mask, positions, time, initial weights."""

from tests.mutants.mutant import Mutant

_LAWS = ("model/test_transformer.py",)

MUTANTS = (
    Mutant("private-queries", "the patches of a private image see nothing but their image, instead of being seen by it alone", "stages/model/attention.py", "None if private_GL is None else private_GL[:, None, :]", "None if private_GL is None else private_GL[:, :, None]", ("model/test_attention.py", "train_model/test_context.py")),
    Mutant("grid-halves", "2-D rotary positions: rows take the fast angles and columns the slow ones", "stages/model/rotary.py", "positions.repeat(1, head_dim // 4)", "positions.repeat_interleave(head_dim // 4, 1)", _LAWS),
    Mutant("grid-columns", "2-D rotary positions: the grid of a wide image is counted by its height", "stages/model/transformer.py", "i.latents_IChw.shape[-1] // side", "i.latents_IChw.shape[-2] // side", _LAWS),
    Mutant("time-coarse", "the embedding of t has no slow sinusoids: it repeats within the 1,000 levels", "stages/model/patches.py", "torch.exp(-math.log(10_000) * torch.arange(half, device=t_I.device) / half)", "torch.exp(-math.log(100) * torch.arange(half, device=t_I.device) / half)", ("model/test_patches.py",)),
    Mutant("qk-norm-of-queries", "query-key norm leaves keys as they are", "stages/model/transformer.py", "self.key_norm(k), v", "k, v", ("model/test_cpu_inference.py",)),
    Mutant("residuals-grow", "the initial weights of layers that add to the stream do not shrink with depth", "stages/model/transformer.py", "std /= (2 * self.config.layers) ** 0.5", "std /= 2**0.5", _LAWS),
    Mutant("unet-residuals-grow", "the residual blocks of a U-Net add as much at first as if there were one", "stages/model/transformer.py", "std /= num_residuals**0.5", "std /= 1", _LAWS),
    Mutant("image-read-early", "a patch is predicted from the element before it, as a token is", "stages/model/transformer.py", "outputs.hidden_ND[index], encoded", "outputs.hidden_ND[index - 1], encoded", _LAWS),
    Mutant("time-outside-patch", 'with time_at = "patch" the time is not in the patch', "stages/model/patches.py", "self.inward(patches + time_I1) if self.time_first", "self.inward(patches) if self.time_first", ("model/test_patches.py",)),
)  # fmt: skip
