"""Faults of training: what the loss is made of. The first six were planted by hand once, and no test saw them."""

from tests.mutants.mutant import Mutant

_BATCHES = "stages/train_model/batches.py"
_TESTS = ("train_model/test_image_loss.py", "train_model/test_batches.py", "train_model/test_context.py")

MUTANTS = (
    Mutant("latents-raw", "latents are not normalised", _BATCHES, "self.scale.sample_posterior(stored[:, 0], stored[:, 1], torch.cat(posteriors))", "torch.addcmul(stored[:, 0], stored[:, 1], torch.cat(posteriors))", _TESTS),
    Mutant("min-snr-ignored", "min-SNR weights are ignored", _BATCHES, "weights = self.diffusion.loss_weights(t, self.weighting)", "weights = torch.ones(len(t))", _TESTS),
    Mutant("eps-factor-dropped", "the reported error is that of the target, not of the noise", "stages/train_model/objective.py", "errors.detach() * truth.eps_mse_factor_I", "errors.detach()", ("train_model/test_image_loss.py", "train_model/test_objective.py")),
    Mutant("limit-lost-at-size-tokens", "an image after BOS, size and BOI is not the first of its document: no noise limit", _BATCHES, "images.start - own.start <= 3", "images.start - own.start <= 2", _TESTS),
    Mutant("times-not-moved", "times do not depend on the size of the image", _BATCHES, "limit, pixels = torch.from_numpy(limits[of_slot]), shape[-2] * shape[-1]", "limit, pixels = torch.from_numpy(limits[of_slot]), 16", _TESTS),
    Mutant("quarters-reversed", "the quarter of the held-out loss that is next to clean is reported as that of noise", "stages/train_model/heldout.py", "quarters = (t_I - 1) * _QUARTERS // self.num_times", "quarters = _QUARTERS - 1 - (t_I - 1) * _QUARTERS // self.num_times", _TESTS),
)  # fmt: skip
