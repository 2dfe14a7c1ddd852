"""Make the autoencoder: pictures -> Autoencoder, trained here or checked and copied. `_train` is the loop over steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.autoencoder import FORM, GROWING, METRICS, MODEL, SHEET, AutoencoderContent, Identity, weights_at
from stages.artifacts.checkpoint import writing_tensors
from stages.artifacts.context import StageContext
from stages.artifacts.folder import Build
from stages.coders.config import Images
from stages.coders.pixels import Pixels, encode_png
from stages.coders.quality import ADVICE, psnr, refuse_silent, too_low
from stages.coders.sheets import contact_sheet
from stages.coders.vae import Vae, build_vae, load_vae, save_vae, to_signed
from stages.core.device import autocast, resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.files import (
    read_jsonl,
    sync_up,
    write_atomic,
    write_jsonl,
)
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed, numpy_generator, torch_generator
from stages.sources.decoding import PictureReader
from stages.sources.document import PictureFile, Source
from stages.sources.reasons import LeftOut
from stages.train_autoencoder.config import PretrainedVae, TrainVae
from stages.train_autoencoder.losses import Discriminator, Perceptual, adversarial_loss, discriminator_loss
from stages.train_autoencoder.saving import State, resume, save_state


def run(source: Source, images: Images, vae: TrainVae | PretrainedVae, context: StageContext) -> None:
    """Train an autoencoder or use a finished one, measure it on held-out pictures, write the before/after sheet, seal.

    Args:
        source: of the pictures.
        images: the recipe section.
        vae: the recipe section.
        context: what all stages get.

    Raises TfcliError: INPUT without usable pictures or with an autoencoder that gives constant latents, DIVERGED on a loss or
    gradient that is not finite.
    """
    build, runtime = context.build, context.runtime
    heldout, training = _split_pictures(source, images, vae, context)
    history: list[dict[str, Any]] = []
    if isinstance(vae, PretrainedVae):
        coder = load_vae(weights_at(vae.path), revision=vae.revision, device=runtime.device)
        runtime.inputs_unchanged()
        refuse_silent([coder.encode(heldout[:32])[0]], list(heldout[:32]))
    else:
        runtime.inputs_unchanged()  # here, not before the seal: training takes hours and reads no picture
        coder = _train(vae, training if len(training) else heldout, heldout, context)
        history = list(read_jsonl(build.folder / METRICS))
    quality = _measure(coder, heldout, context)
    identity = _write_model(coder, build)
    # the record is deleted first: a kill between the two must not leave a state.json that names a deleted file
    (build.folder / GROWING / "state.json").unlink(missing_ok=True)
    build.remove(GROWING)
    content = AutoencoderContent(
        identity=Identity.model_validate(identity),
        latent_channels=coder.latent_channels,
        downsampling=coder.downsampling(),
        picture_size=images.size,
        fit=images.fit,
    )
    stats = {
        "psnr_heldout": quality,
        "parameters": sum(weight.numel() for weight in coder.model.parameters()),
        "pictures": len(heldout) + len(training),
        "history": history[-50:],
    }
    files = [name for name in FORM.files if name != METRICS or isinstance(vae, TrainVae)]
    build.seal(content.model_dump(), stats, files=files)


def _split_pictures(
    source: Source, images: Images, vae: TrainVae | PretrainedVae, context: StageContext
) -> tuple[Pixels, Pixels]:
    """Held-out pictures and training pictures, each (N, height, width, 3), uint8."""
    wanted = vae.heldout_pictures + (vae.max_pictures if isinstance(vae, TrainVae) else 0)
    pictures = _load_pictures(source, images, wanted, context.runtime)
    # a finished autoencoder is not trained here: all its pictures are for measuring
    most = len(pictures) // 5 if isinstance(vae, TrainVae) else len(pictures)
    count = min(vae.heldout_pictures, max(1, most))
    order = numpy_generator(context.seed, "vae heldout").permutation(len(pictures))
    return pictures[order[:count]], pictures[order[count:]]


def _measure(coder: Vae, heldout: Pixels, context: StageContext) -> float:
    """PSNR on the held-out pictures, in dB, reported; and the sheet of pictures before and after the autoencoder."""
    after = _reconstruct(coder, heldout)
    quality = psnr(heldout, after)
    context.runtime.report(Note(f"autoencoder: {quality:.2f} dB PSNR on {len(heldout)} held-out pictures"))
    if why := too_low(quality, "held-out pictures"):
        context.runtime.report(Warn(f"{why}; {ADVICE}"))
    columns = min(8, len(heldout))
    sheet = contact_sheet([*heldout[:columns], *after[:columns]], columns=columns)
    write_atomic(context.build.folder / SHEET, encode_png(sheet))
    return quality


def _write_model(coder: Vae, build: Build) -> dict[str, Any]:
    """Write the autoencoder and flush it, because the saved state is deleted next. Where that fails, what was written is removed:
    the disk may be full. Returns its identity."""
    folder = build.folder / MODEL
    build.remove(MODEL)  # what a kill left unfinished
    try:
        with writing_tensors(folder):
            identity = save_vae(coder, folder)
        sync_up(sorted(path for path in folder.iterdir() if path.is_file()), folder.parent)
    except BaseException:
        build.remove(MODEL)
        raise
    return identity


def _load_pictures(source: Source, images: Images, limit: int, runtime: Runtime) -> Pixels:
    """Up to `limit` good pictures from the start of the source, without held-out documents, (N, height, width, 3), uint8. Raises
    TfcliError (INPUT) where there is none."""
    left_out = LeftOut()
    documents = (item for item in left_out.kept(source.documents()) if not item.heldout)
    names: list[str] = []  # of the pictures that the reader is working on

    def pictures() -> Iterator[PictureFile]:
        for image in (image for document in documents for image in document.images):
            names.append(image.name)
            yield image.picture

    total = min(limit, source.count()[1])
    found: list[Pixels] = []
    with PictureReader(images.squares(), runtime.workers) as reader:
        for fitted in reader.read(pictures()):
            runtime.interrupts.check("nothing to save yet")
            name = names.pop(0)
            if fitted.pixels is None:
                left_out.add(fitted.reason, name, fitted.message)
            else:
                found.append(fitted.pixels)
            if len(found) % 1000 == 0:
                runtime.report(Progress("read pictures", min(len(found), total), total, "pictures"))
            if len(found) >= limit:
                break
    if not found:
        raise left_out.nothing("no pictures to train the autoencoder on", source.describe())
    return np.stack(found)


def _train(vae: TrainVae, training: Pixels, heldout: Pixels, context: StageContext) -> Vae:
    """Train with L1 + LPIPS + GAN + KL (paper, appendix A) and AdamW. A resumed run is exact, because batches and noise are
    functions of (seed, step)."""
    build, runtime, seed = context.build, context.runtime, context.seed
    device = resolve_device(runtime.device)
    state = _initial_state(vae, device, seed)
    perceptual = Perceptual.load(vae.lpips_weights, device) if vae.lpips_weight else None
    resume(build.folder, state, runtime)
    while state.step < vae.steps:
        # save
        if state.step % vae.save_every == 0 or runtime.interrupts.requested:
            save_state(build.folder, state)
        runtime.interrupts.check(f"state saved at step {state.step}")

        # load a batch
        step = state.step
        chosen = numpy_generator(seed, "vae batch", step).integers(len(training), size=vae.batch_size)
        truth = to_signed(torch.from_numpy(training[chosen]).to(device))

        # forward and backward
        adversary = state.discriminator if step >= vae.gan_start_step else None
        generator = torch_generator(seed, "vae noise", step)
        loss, l1, reconstruction = _losses(vae, state, truth, generator, perceptual, adversary)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()

        # clip
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        if not math.isfinite(loss.item() + norm.item()):
            fix = "lower vae.learning_rate; the last save is from before this step"
            raise TfcliError(f"autoencoder training diverged at step {step}", fix=fix, code=ExitCode.DIVERGED)

        # optimizer
        for group in state.optimizer.param_groups:
            group["lr"] = _rate(step, vae)
        state.optimizer.step()
        if adversary is not None:
            _step_discriminator(state, adversary, truth, reconstruction)
        _update_average(vae, state)
        state.step += 1

        # evaluate, log
        if state.step % 100 == 0 or state.step == vae.steps:
            row = {"step": state.step, "l1": l1.item(), "loss": loss.item()}
            if state.step % 500 == 0 or state.step == vae.steps:
                row["psnr"] = _psnr_of_average(state, heldout, device)
            state.rows.append(row)
            runtime.report(Progress("vae", state.step, vae.steps, "steps", {"l1": f"{l1.item():.4f}"}))
    save_state(build.folder, state)
    write_jsonl(build.folder / METRICS, state.rows)
    _load_average(state.model, state.ema)
    return Vae(state.model, device)


def _losses(
    vae: TrainVae,
    state: State,
    truth: Tensor,
    generator: torch.Generator,
    perceptual: Perceptual | None,
    adversary: Discriminator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its L1 term, both float32 scalars, and the reconstruction, float32, (N, 3, height, width) in [-1, 1].

    Args:
        vae: weights of the terms, and the precision.
        state: the autoencoder.
        truth: pictures, (N, 3, height, width) in [-1, 1].
        generator: of the noise that is added to the latents.
        perceptual: LPIPS, None without that term.
        adversary: the discriminator, None without that term or before vae.gan_start_step.
    """
    with autocast(truth.device, vae.precision):
        posterior = state.model.encode(truth).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(truth.device)
        reconstruction = state.model.decode(posterior.mean + posterior.std * noise).sample
    reconstruction = reconstruction.float()
    l1 = (reconstruction - truth).abs().mean()
    loss = vae.l1_weight * l1 + vae.kl_weight * posterior.kl().mean()
    if vae.rmse_weight:
        loss = loss + vae.rmse_weight * ((reconstruction - truth).square().mean((1, 2, 3)) + 1e-6).sqrt().mean()
    if perceptual is not None:
        loss = loss + vae.lpips_weight * perceptual(reconstruction, truth)
    if adversary is not None:
        loss = loss + vae.gan_weight * adversarial_loss(adversary, reconstruction)
    return loss, l1, reconstruction


def _step_discriminator(state: State, adversary: Discriminator, truth: Tensor, reconstruction: Tensor) -> None:
    assert state.discriminator_optimizer is not None
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    discriminator_loss(adversary, truth, reconstruction.detach()).backward()
    state.discriminator_optimizer.step()


@torch.no_grad()
def _update_average(vae: TrainVae, state: State) -> None:
    """ema += (1 - d) (weights - ema), in place, with d = min(ema_decay, (1 + step) / (10 + step))."""
    decay = min(vae.ema_decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(list(state.ema.values()), [p.detach() for p in state.model.parameters()], 1 - decay)


def _load_average(model: Any, ema: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(ema[name])


def _psnr_of_average(state: State, heldout: Pixels, device: torch.device) -> float:
    """PSNR of the running average in dB, on a copy, so that the trained weights do not change."""
    model = copy.deepcopy(state.model)
    _load_average(model, state.ema)
    return psnr(heldout, _reconstruct(Vae(model, device), heldout))


def _initial_state(vae: TrainVae, device: torch.device, seed: int) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "vae weights"))
        model = build_vae(vae.channels, vae.layers_per_block, vae.latent_channels, vae.norm_groups)
        # channels_last: 1.2 to 1.5 times faster in fp32 on two cores at 64 px (measured).
        model = model.to(device, memory_format=torch.channels_last)
        discriminator = Discriminator().to(device) if vae.gan_weight else None
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=vae.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    second = None
    if discriminator is not None:
        second = torch.optim.AdamW(discriminator.parameters(), lr=vae.gan_learning_rate, betas=(0.5, 0.9), fused=True)
    ema = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return State(model, optimizer, ema, discriminator, second)


def _rate(step: int, vae: TrainVae) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak."""
    if step < vae.warmup_steps:
        return vae.learning_rate * (step + 1) / vae.warmup_steps
    progress = (step - vae.warmup_steps) / max(1, vae.steps - vae.warmup_steps)
    return vae.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _reconstruct(vae: Vae, pictures: Pixels) -> Pixels:
    batches = [pictures[start : start + 32] for start in range(0, len(pictures), 32)]
    return np.concatenate([vae.decode(vae.encode(batch)[0]) for batch in batches])
