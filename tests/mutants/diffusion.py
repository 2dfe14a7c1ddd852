"""Faults of the diffusion process: schedules, weights, samplers, guidance, edits."""

from tests.mutants.mutant import Mutant

_SAMPLERS = "stages/diffusion/samplers.py"

MUTANTS = (
    Mutant("limit-clips", "the noise limit clips t instead of scaling it: most images that begin a document get the limit itself", "stages/diffusion/process.py", "1 + (fraction * limits_I).long().clamp(max=limits_I - 1)", "1 + (fraction * self.num_steps).long().clamp(max=limits_I - 1)", ("diffusion/test_process.py",)),
    Mutant("ddpm-large-variance", "DDPM takes the upper bound of the posterior's variance", _SAMPLERS, "(new_variance**0.5 * step.sigma_next / step.sigma) * draw_noise()", "new_variance**0.5 * draw_noise()", ("diffusion/test_agreement.py",)),
    Mutant("dpm-steps-swapped", "DPM-Solver++ extrapolates by the ratio of step sizes upside down", _SAMPLERS, "h / (2 * h_before) * (x0 - x0_before)", "h_before / (2 * h) * (x0 - x0_before)", ("diffusion/test_agreement.py",)),
    Mutant("heun-is-euler", "Heun's step takes the noise of its start twice", _SAMPLERS, "(step.sigma_next - step.sigma) / 2 * (eps + eps_next)", "(step.sigma_next - step.sigma) * eps", ("diffusion/test_agreement.py",)),
    Mutant("guidance-scales-swapped", "text scale and image scale in each other's place, away from the whole document", "stages/diffusion/guidance.py", '{"images": image - self.text, "none": 1 - image}', '{"images": 1 - image, "none": image - self.text}', ("diffusion/test_guidance.py",)),
    Mutant("rescale-backwards", "guidance rescale 1 changes nothing, and 0.1 nearly all", "stages/diffusion/guidance.py", "rescale * full_std / std + (1 - rescale)", "(1 - rescale) * full_std / std + rescale", ("diffusion/test_guidance.py",)),
    Mutant("min-snr-of-noise", "min-SNR limits the weight of noisy images instead of nearly clean ones", "stages/diffusion/weighting.py", "inverse_snr = (sigma_I / alpha_I) ** 2", "inverse_snr = (alpha_I / sigma_I) ** 2", ("diffusion/test_process.py", "train_model/test_image_loss.py")),
    Mutant("sampling-not-shifted", "the steps of a sampler are evenly spaced where those of training are shifted", "stages/diffusion/process.py", "shifted(np.linspace(1, 0, steps + 1), self.timestep_distribution.shift(pixels))", "np.linspace(1, 0, steps + 1)", ("diffusion/test_samplers.py",)),
    Mutant("edit-shows-at-full-noise", "an edit of strength 1 starts with a rest of the picture", "stages/diffusion/inpainting.py", "free = eps_IChw if start == diffusion.num_steps else noised", "free = noised", ("diffusion/test_inpainting.py",)),
    Mutant("heun-unlimited", "the second estimate of Heun's step is not limited", _SAMPLERS, "(yield x_next, step.t_next).clamp(-limit, limit)", "(yield x_next, step.t_next)", ("diffusion/test_samplers.py",)),
    Mutant("edit-pastes-late", "the known part of an edit is drawn freely and pasted in at the end", "stages/diffusion/inpainting.py", "steps.send(torch.where(change, (yield x_t_and_t), x0_IChw))", "steps.send((yield x_t_and_t))", ("diffusion/test_inpainting.py",)),
    Mutant("clean-factor-inverted", "an error of predicted x_0 is reported as that of the noise by the factor upside down", "stages/diffusion/targets.py", "return (alpha / sigma) ** 2", "return (sigma / alpha) ** 2", ("diffusion/test_process.py",)),
)  # fmt: skip
