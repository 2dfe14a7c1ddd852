"""Faults of generation: sequences, cache, branches of guidance, choice of tokens. The first two were planted by hand once."""

from tests.mutants.mutant import Mutant

_LAYOUT = "stages/generation/layout.py"

MUTANTS = (
    Mutant("begins-with-eos", "documents begin with EOS", _LAYOUT, "ids: list[int] = [self.text.bos]", "ids: list[int] = [self.text.eos]", ("generation/test_layout.py",)),
    Mutant("heldout-raw", "held-out pictures are not normalised before the model reads them", "stages/generation/heldout.py", "loaded.scale.normalise(torch.from_numpy(stored).to(loaded.device))", "torch.from_numpy(stored).to(loaded.device)", ("generation/test_layout.py",)),
    Mutant("read-noisy", "finished images are read at t = 1 instead of clean", _LAYOUT, "torch.zeros(len(found), dtype=torch.long, device=device)", "torch.ones(len(found), dtype=torch.long, device=device)", ("generation/test_engine.py",)),
    Mutant("boi-sees-patches", "BOI belongs to the bidirectional block of its image", _LAYOUT, "allow_TM[offset:end, start + offset : start + end] = True", "allow_TM[offset - 1 : end, start + offset : start + end] = True", ("generation/test_engine.py",)),
    Mutant("ends-with-eos", "a generated image is followed by EOS in the cache", _LAYOUT, "num_patches(latent, self.patch_side), self.text.eoi), ((0, latent),))", "num_patches(latent, self.patch_side), self.text.eos), ((0, latent),))", ("generation/test_kv_cache_parity.py",)),
    Mutant("stale-images", "guidance by images compares with the images that the prompt had, without those drawn since", "stages/generation/state.py", 'len(generated) if branch == "images" else 0, self.size', "0, self.size", ("generation/test_engine.py",)),
    Mutant("negative-first", "the negative prompt is before the images of a document", "stages/generation/branches.py", "(*images, TextPiece(negative)) if negative else images", "(TextPiece(negative), *images) if negative else images", ("generation/test_branches.py",)),
    Mutant("unconditional-text", "the branch without images keeps the text, so that guidance compares with the caption itself", "stages/generation/branches.py", 'isinstance(piece, ImagePiece)) if branch == "images" else ()', 'branch == "none" or isinstance(piece, ImagePiece))', ("generation/test_branches.py",)),
    Mutant("edits-go-on", "every image of a document starts from the picture of the edit, not only the first", "stages/generation/state.py", "None if self.num_images else self.prompt.edit", "self.prompt.edit", ("generation/test_engine.py",)),
    Mutant("top-p-short", "top-p leaves out the token that reaches p", "stages/generation/token_sampling.py", "order[probabilities.cumsum(0) - probabilities < p]", "order[probabilities.cumsum(0) <= max(p, float(probabilities[0]))]", ("generation/test_token_sampling.py",)),
    Mutant("penalty-rewards", "the repetition penalty makes tokens of negative logits more likely", "stages/generation/token_sampling.py", "before / penalty, before * penalty", "before / penalty, before / penalty", ("generation/test_token_sampling.py",)),
    Mutant("same-noise-again", "every image of a document starts from the same noise", "stages/generation/denoising.py", 'torch_generator(self.seed, "image", document.index, document.num_images)', 'torch_generator(self.seed, "image", document.index, 0)', ("generation/test_engine.py",)),
    Mutant("size-after-boi", "the token of an image's size follows its BOI", _LAYOUT, "return (self.size_ids[size], self.text.boi)", "return (self.text.boi, self.size_ids[size])", ("generation/test_layout.py", "generation/test_sizes.py")),
    Mutant("unlimited", "estimates of x_0 are not limited to the range of latents", "stages/generation/denoising.py", "sampler.denoising_steps(eps, diffusion, draw_noise, limit)", 'sampler.denoising_steps(eps, diffusion, draw_noise, float("inf"))', ("generation/test_engine.py",)),
    Mutant("any-document-held-out", "documents of the training side are given as held out", "stages/generation/heldout.py", "if document.index in heldout and images", "if images", ("generation/test_layout.py",)),
)  # fmt: skip
