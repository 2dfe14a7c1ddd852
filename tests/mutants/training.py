"""Faults of training: what the loss is made of, draws of noise and times, processes, and what is seen of it. The first six were planted by hand once, and no test saw them."""

from tests.mutants.mutant import Mutant

_BATCHES, _IMAGES = "stages/train_model/batches.py", "stages/train_model/images.py"
_LAYOUT, _DATA = "stages/train_model/layout.py", "stages/train_model/data.py"
_LOCAL, _OF_LOCAL = "stages/train_model/distributed/local.py", "train_model/test_local.py::"
_LAW = ("train_model/test_image_loss.py",)
_CONTEXT = ("train_model/test_context.py",)
_BATCH = ("train_model/test_batches.py",)
_DRAWS, _TIMES = ("train_model/test_noise_draws.py",), ("train_model/test_times.py",)

MUTANTS = (
    Mutant("latents-raw", "latents are not normalised", _IMAGES, "self.scale.sample_posterior(stored[:, 0], stored[:, 1], torch.cat(posteriors))", "torch.addcmul(stored[:, 0], stored[:, 1], torch.cat(posteriors))", _LAW),
    Mutant("min-snr-ignored", "min-SNR weights are ignored", _IMAGES, "weights = self.diffusion.loss_weights(t, self.weighting)", "weights = torch.ones(len(t))", _LAW),
    Mutant("eps-factor-dropped", "the reported error is that of the target, not of the noise", "stages/train_model/objective.py", "errors.detach() * truth.eps_mse_factor_I", "errors.detach()", _LAW),
    Mutant("limit-lost-at-size-tokens", "an image after BOS, size and BOI is not the first of its document: no noise limit", _BATCHES, "images.start - own.start <= 3", "images.start - own.start <= 2", _LAW),
    Mutant("times-not-moved", "times do not depend on the size of the image", _IMAGES, "stored.shape[-2] * stored.shape[-1]", "16", _LAW),
    Mutant("quarters-reversed", "the quarter of the held-out loss that is next to clean is reported as that of noise", "stages/train_model/heldout.py", "quarters = (t_I - 1) * _QUARTERS // self.num_times", "quarters = _QUARTERS - 1 - (t_I - 1) * _QUARTERS // self.num_times", _LAW),
    Mutant("statistics-of-all", "the statistics of latents are those of the held-out side as well", "stages/pack_sequences/stage.py", "channel_statistics(stored, [train, ", "channel_statistics(stored, [train, kept, ", ("pack_sequences/test_statistics.py",)),
    Mutant("limit-of-all", "samplers are limited by held-out latents as well", _DATA, "for maker in (self.train, self.late) if maker", "for maker in (self.train, self.heldout, self.late) if maker", _LAW),
    Mutant("dropped-caption-scored", "a document whose caption was dropped has a text loss", _BATCHES, "has_next & (ids != self.content.boi) & ~layout.caption_dropped", "has_next & (ids != self.content.boi)", _BATCH),
    Mutant("dropped-caption-limited", "an image whose caption was dropped gets the noise limit", _BATCHES, "at_start & (own.image_first == 1) & (own.caption_dropped == 0)", "at_start & (own.image_first == 1)", (*_BATCH, *_CONTEXT)),
    Mutant("copies-take-positions", "clean copies move the positions of all that follows", _LAYOUT, "self.position = offset - (back - back[self.starts[document]])", "self.position = offset", _CONTEXT),
    Mutant("posterior-mean", "latents are the mean of the posterior, never a draw", "stages/coders/scale.py", "mean.float() + std.float() * noise", "mean.float()", _BATCH),
    Mutant("one-noise-for-all-grids", "images of different sizes in a row get the same noise and times", _IMAGES, '("noise", *keys[slot], grid)', '("noise", *keys[slot])', _DRAWS),
    Mutant("heldout-without-average", "held-out losses are of the trained weights, not of their running average", "stages/train_model/heldout.py", "averaged_weights(state.model, state.ema)", "averaged_weights(state.model, {})", ("train_model/test_steps.py", *_LAW)),
    Mutant("lambda-of-reported", "lambda weighs the reported error of the noise, not the weighted one of the target", "stages/train_model/objective.py", "sums.weighted_image / max(1, num_images)\n    return loss", "sums.image / max(1, num_images)\n    return loss", _LAW),
    Mutant("draws-seen", "later text reads the further noise draws of an image too", _BATCHES, "private[index - draw * len(index)] = True", "private[index - draw * len(index)] = False", _DRAWS),
    Mutant("draws-share-time", "all noise draws of an image have one t", _IMAGES, "own_times.append(self.diffusion", "own_times.append(own_times[0] if draw else self.diffusion", _DRAWS),
    Mutant("draws-share-noise", "all further noise draws of an image have one eps", _IMAGES, '("noise draw", *keys[slot], grid, draw) if draw', '("noise draw", *keys[slot], grid) if draw', _DRAWS),
    Mutant("draws-take-positions", "noise draws after the second move the positions of all that follows", _LAYOUT, "int((num_draws + has_clean_copy).max(initial=1))", "2", _DRAWS),
    Mutant("draws-see-draws", "noise draws of an image are one block, whose patches see each other", _BATCHES, "(draw + 1) * len(images.records) + number", "number", _DRAWS),
    Mutant("limit-of-one-draw", "the noise limit holds for the first draw of an image alone", _BATCHES, "limits_KI[:, _is_first_image(records, own)]", "limits_KI[0, _is_first_image(records, own)]", (*_DRAWS, *_TIMES)),
    Mutant("limit-of-unread-draws", "the noise limit of images that are read holds for draws that nothing reads", _BATCHES, "limits_KI[0, eoi < end]", "limits_KI[:, eoi < end]", _TIMES),
    Mutant("draws-in-heldout", "held-out losses depend on how many noise draws the training has", _DATA, 'noise_draws=1 if side == "heldout" else diffusion.noise_draws', "noise_draws=diffusion.noise_draws", _DRAWS),
    Mutant("times-by-chance", "stratified times are anywhere", _IMAGES, "strata(len(draws), len(alike), generator)", "torch.rand(len(draws), len(alike), generator=generator, dtype=torch.float64)", _TIMES),
    Mutant("strata-of-batch", "stratified times of a row are spread over the rows after it as well, so that they depend on the batch", _IMAGES, "of_slot = images.slots == slot\n            for", "of_slot = images.slots >= slot\n            for", _TIMES),
    Mutant("strata-of-draws", "stratified times of an image are in any of the ranges, not each in one of its own", "stages/diffusion/timesteps.py", "index_KI = part_KI * count + inside_KI.gather(0, part_KI)", "index_KI = torch.randperm(num_draws * count, generator=generator).view(num_draws, count)", _TIMES),
    Mutant("strata-in-heldout", "held-out losses depend on whether the times of the training are stratified", _DATA, 'diffusion.stratified_times and side != "heldout"', "diffusion.stratified_times", _TIMES),
    Mutant("processes-by-cores", "a training that resumes has as many processes as there are cores, not as many as it began with", _LOCAL, "return Plan(min(recorded, most))", "return Plan(most)", (_OF_LOCAL + "test_a_training_that_resumes_keeps_the_number_it_began_with",)),
    Mutant("processes-unrecorded", "how many processes a training began with is not recorded", _LOCAL, "_record(context.build.folder, plan.count)\n", "pass\n", (_OF_LOCAL + "test_a_signal_stops_all_after_a_save_and_auto_resumes_with_as_many",)),
    Mutant("older-training-measured", "a training that an older version began in one process may be continued in several", _LOCAL, "if complete_saves(folder / SAVES) or (folder / STATE).exists():", "if (folder / STATE).exists():", (_OF_LOCAL + "test_a_training_that_resumes_keeps_the_number_it_began_with",)),
)  # fmt: skip
