"""Faults of training: what the loss is made of and what is seen of it. The first six were planted by hand once, and no test saw them."""

from tests.mutants.mutant import Mutant

_BATCHES = "stages/train_model/batches.py"
_LAW = ("train_model/test_image_loss.py",)
_CONTEXT = ("train_model/test_context.py",)
_BATCH = ("train_model/test_batches.py",)

MUTANTS = (
    Mutant("latents-raw", "latents are not normalised", _BATCHES, "self.scale.sample_posterior(stored[:, 0], stored[:, 1], torch.cat(posteriors))", "torch.addcmul(stored[:, 0], stored[:, 1], torch.cat(posteriors))", _LAW),
    Mutant("min-snr-ignored", "min-SNR weights are ignored", _BATCHES, "weights = self.diffusion.loss_weights(t, self.weighting)", "weights = torch.ones(len(t))", _LAW),
    Mutant("eps-factor-dropped", "the reported error is that of the target, not of the noise", "stages/train_model/objective.py", "errors.detach() * truth.eps_mse_factor_I", "errors.detach()", _LAW),
    Mutant("limit-lost-at-size-tokens", "an image after BOS, size and BOI is not the first of its document: no noise limit", _BATCHES, "images.start - own.start <= 3", "images.start - own.start <= 2", _LAW),
    Mutant("times-not-moved", "times do not depend on the size of the image", _BATCHES, "limit, pixels = torch.from_numpy(limits[of_slot]), shape[-2] * shape[-1]", "limit, pixels = torch.from_numpy(limits[of_slot]), 16", _LAW),
    Mutant("quarters-reversed", "the quarter of the held-out loss that is next to clean is reported as that of noise", "stages/train_model/heldout.py", "quarters = (t_I - 1) * _QUARTERS // self.num_times", "quarters = _QUARTERS - 1 - (t_I - 1) * _QUARTERS // self.num_times", _LAW),
    Mutant("statistics-of-all", "the statistics of latents are those of the held-out side as well", "stages/pack_sequences/stage.py", "channel_statistics(stored, [train, ", "channel_statistics(stored, [train, kept, ", ("pack_sequences/test_statistics.py",)),
    Mutant("limit-of-all", "samplers are limited by held-out latents as well", "stages/train_model/data.py", "for maker in (self.train, self.late) if maker", "for maker in (self.train, self.heldout, self.late) if maker", _LAW),
    Mutant("dropped-caption-scored", "a document whose caption was dropped has a text loss", _BATCHES, "has_next & (ids != self.content.boi) & ~layout.caption_dropped", "has_next & (ids != self.content.boi)", _BATCH),
    Mutant("dropped-caption-limited", "an image whose caption was dropped gets the noise limit", _BATCHES, "at_start & (own.image_first == 1) & (own.caption_dropped == 0)", "at_start & (own.image_first == 1)", (*_BATCH, *_CONTEXT)),
    Mutant("copies-take-positions", "clean copies move the positions of all that follows", "stages/train_model/layout.py", "self.position = offset - (back - back[self.starts[document]])", "self.position = offset", _CONTEXT),
    Mutant("posterior-mean", "latents are the mean of the posterior, never a draw", "stages/coders/scale.py", "mean.float() + std.float() * noise", "mean.float()", _BATCH),
    Mutant("one-noise-for-all-grids", "images of different sizes in a row get the same noise and times", _BATCHES, 'torch_generator(seed, "noise", *keys[slot], grid)', 'torch_generator(seed, "noise", *keys[slot])', (*_BATCH, *_LAW)),
    Mutant("heldout-without-average", "held-out losses are of the trained weights, not of their running average", "stages/train_model/heldout.py", "averaged_weights(state.model, state.ema)", "averaged_weights(state.model, {})", ("train_model/test_steps.py", *_LAW)),
    Mutant("lambda-of-reported", "lambda weighs the reported error of the noise, not the weighted one of the target", "stages/train_model/objective.py", "sums.weighted_image / max(1, num_images)\n    return loss", "sums.image / max(1, num_images)\n    return loss", _LAW),
)  # fmt: skip
