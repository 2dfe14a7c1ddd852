"""Make the autoencoder: pictures -> Autoencoder, trained here or checked and copied. `run` decides, `_train` is the loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.autoencoder import FORM, GROWING, METRICS, MODEL, SHEET, AutoencoderContent, Identity, weights_at
from stages.artifacts.checkpoint import read_tensors, write_tensors, writing_tensors
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
    disk_errors,
    read_jsonl,
    read_record,
    sync_folder,
    sync_up,
    write_atomic,
    write_jsonl,
    write_record,
)
from stages.core.hashing import hash_file
from stages.core.reading import inside
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed, numpy_generator, torch_generator
from stages.sources.decoding import PictureReader
from stages.sources.document import Picture, Source
from stages.sources.reasons import LeftOut
from stages.train_autoencoder.config import PretrainedVae, TrainVae
from stages.train_autoencoder.losses import Discriminator, Perceptual, adversarial_loss, discriminator_loss


def run(source: Source, images: Images, vae: TrainVae | PretrainedVae, context: StageContext) -> None:
    """Train or take over an autoencoder, measure it on held-out pictures, draw the before/after sheet, seal."""
    build, runtime, seed = context.build, context.runtime, context.seed
    wanted = vae.heldout_pictures + (vae.max_pictures if isinstance(vae, TrainVae) else 0)
    pictures = _load_pictures(source, images, wanted, runtime)
    # a finished autoencoder learns nothing here: all its pictures are for measuring
    share = len(pictures) // 5 if isinstance(vae, TrainVae) else len(pictures)
    heldout_count = min(vae.heldout_pictures, max(1, share))
    order = numpy_generator(seed, "vae heldout").permutation(len(pictures))
    heldout, training = pictures[order[:heldout_count]], pictures[order[heldout_count:]]
    history: list[dict[str, Any]] = []
    if isinstance(vae, PretrainedVae):
        coder = load_vae(weights_at(vae.path), revision=vae.revision, device=runtime.device)
        runtime.inputs_unchanged()
        refuse_silent([coder.encode(heldout[:32])[0]], list(heldout[:32]))
    else:
        runtime.inputs_unchanged()  # here, not before the seal: training takes hours and reads no picture
        coder = _train(vae, training if len(training) else heldout, heldout, build, runtime, seed)
        history = list(read_jsonl(build.folder / METRICS))
    after = _reconstruct(coder, heldout)
    quality = psnr(heldout, after)
    runtime.report(Note(f"autoencoder: {quality:.2f} dB PSNR on {len(heldout)} held-out pictures"))
    if why := too_low(quality, "held-out pictures"):
        runtime.report(Warn(f"{why}; {ADVICE}"))
    shown = min(8, len(heldout))
    sheet = contact_sheet([*heldout[:shown], *after[:shown]], columns=shown)
    write_atomic(build.folder / SHEET, encode_png(sheet))
    facts = _write_model(coder, build)
    # the commit goes first: a kill between the two must not leave a state.json that names a file already gone
    (build.folder / GROWING / "state.json").unlink(missing_ok=True)
    build.remove(GROWING)
    parameters = sum(weight.numel() for weight in coder.model.parameters())
    content = AutoencoderContent(
        identity=Identity.model_validate(facts),
        latent_channels=coder.latent_channels,
        downsampling=coder.downsampling(),
        picture_size=images.size,
        fit=images.fit,
    )
    stats = {"psnr_heldout": quality, "parameters": parameters, "pictures": len(pictures), "history": history[-50:]}
    files = [name for name in FORM.files if name != METRICS or isinstance(vae, TrainVae)]
    build.seal(content.model_dump(), stats, files=files)


def _write_model(coder: Vae, build: Build) -> dict[str, Any]:
    """Write the autoencoder and flush it: the saved state, from which it could be made again, is deleted next. Where that
    fails nothing of it stays on a disk that may be full."""
    folder = build.folder / MODEL
    build.remove(MODEL)  # what a kill left half written
    try:
        with writing_tensors(folder):
            facts = save_vae(coder, folder)
        sync_up(sorted(path for path in folder.iterdir() if path.is_file()), folder.parent)
    except BaseException:
        build.remove(MODEL)
        raise
    return facts


def _load_pictures(source: Source, images: Images, limit: int, runtime: Runtime) -> Pixels:
    """Up to `limit` good pictures from the start of the source, without those it holds out. Raises TfcliError (INPUT)."""
    left_out = LeftOut()
    documents = (item for item in left_out.kept(source.documents()) if not item.heldout)
    names: list[str] = []  # of those that were given to the reader and have not come back

    def pictures() -> Iterator[Picture]:
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


@dataclass
class _State:
    """What changes while training, saved whole every save_every steps."""

    model: Any
    optimizer: torch.optim.AdamW
    ema: dict[str, Tensor]
    discriminator: Discriminator | None
    discriminator_optimizer: torch.optim.AdamW | None
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    saved: str = ""  # the file that state.json names


def _train(vae: TrainVae, training: Pixels, heldout: Pixels, build: Build, runtime: Runtime, seed: int) -> Vae:
    """L1 + LPIPS + GAN + KL (paper, appendix A) with AdamW; exact resume: batches and noise are functions of (seed, step)."""
    device = resolve_device(runtime.device)
    state = _start(vae, device, seed)
    perceptual = Perceptual.load(vae.lpips_weights, device) if vae.lpips_weight else None
    _resume(build.folder, state, runtime)
    while state.step < vae.steps:
        if state.step % vae.save_every == 0 or runtime.interrupts.requested:
            _save(build.folder, state)
        runtime.interrupts.check(f"state saved at step {state.step}")

        step = state.step
        chosen = numpy_generator(seed, "vae batch", step).integers(len(training), size=vae.batch_size)
        truth = to_signed(torch.from_numpy(training[chosen]).to(device))
        for group in state.optimizer.param_groups:
            group["lr"] = _rate(step, vae)
        with autocast(device, vae.precision):
            posterior = state.model.encode(truth).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=torch_generator(seed, "vae noise", step)).to(device)
            drawn = state.model.decode(posterior.mean + posterior.std * noise).sample
        drawn = drawn.float()
        l1 = (drawn - truth).abs().mean()
        loss = vae.l1_weight * l1 + vae.kl_weight * posterior.kl().mean()
        if vae.rmse_weight:
            loss = loss + vae.rmse_weight * ((drawn - truth).square().mean((1, 2, 3)) + 1e-6).sqrt().mean()
        if perceptual is not None:
            loss = loss + vae.lpips_weight * perceptual(drawn, truth)
        adversary = state.discriminator if step >= vae.gan_start_step else None
        if adversary is not None:
            loss = loss + vae.gan_weight * adversarial_loss(adversary, drawn)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        if not math.isfinite(loss.item() + norm.item()):
            fix = "lower vae.learning_rate; the last save is from before this step"
            raise TfcliError(f"autoencoder training diverged at step {step}", fix=fix, code=ExitCode.DIVERGED)
        state.optimizer.step()
        if adversary is not None:
            assert state.discriminator_optimizer is not None
            state.discriminator_optimizer.zero_grad(set_to_none=True)
            discriminator_loss(adversary, truth, drawn.detach()).backward()
            state.discriminator_optimizer.step()
        decay = min(vae.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(state.ema.values()), [p.detach() for p in state.model.parameters()], 1 - decay)
        state.step += 1
        if state.step % 100 == 0 or state.step == vae.steps:
            row = {"step": state.step, "l1": l1.item(), "loss": loss.item()}
            if state.step % 500 == 0 or state.step == vae.steps:
                row["psnr"] = _psnr_of_average(state, heldout, device)
            state.rows.append(row)
            runtime.report(Progress("vae", state.step, vae.steps, "steps", {"l1": f"{l1.item():.4f}"}))
    _save(build.folder, state)
    write_jsonl(build.folder / METRICS, state.rows)
    _load_average(state.model, state.ema)
    return Vae(state.model, device)


def _load_average(model: Any, ema: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(ema[name])


def _psnr_of_average(state: _State, heldout: Pixels, device: torch.device) -> float:
    """PSNR of the running average, on a copy: the weights that train stay as they are."""
    model = copy.deepcopy(state.model)
    _load_average(model, state.ema)
    return psnr(heldout, _reconstruct(Vae(model, device), heldout))


def _start(vae: TrainVae, device: torch.device, seed: int) -> _State:
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
    return _State(model, optimizer, ema, discriminator, second)


def _rate(step: int, vae: TrainVae) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak."""
    if step < vae.warmup_steps:
        return vae.learning_rate * (step + 1) / vae.warmup_steps
    progress = (step - vae.warmup_steps) / max(1, vae.steps - vae.warmup_steps)
    return vae.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _save(folder: Path, state: _State) -> None:
    """One safetensors file with everything, then a JSON that names it: the JSON is the commit."""
    place = folder / GROWING
    with disk_errors(place):
        place.mkdir(exist_ok=True)
    sync_folder(folder)
    file = f"step-{state.step:08d}.safetensors"
    if state.saved == file:
        return  # committed: writing it again in place could tear it
    tensors = {f"ema/{name}": tensor for name, tensor in state.ema.items()}
    for prefix, module, optimizer in _parts(state):
        for name, weight in module.named_parameters():
            tensors[f"{prefix}/{name}"] = weight
            slots = optimizer.state.get(weight, {})
            tensors.update(
                {f"{prefix}/{slot}/{name}": slots[slot] for slot in ("step", "exp_avg", "exp_avg_sq") if slot in slots}
            )
    write_tensors(place / file, tensors)
    record = {"step": state.step, "file": file, "file_sha256": hash_file(place / file), "rows": state.rows}
    write_record(place / "state.json", record)
    state.saved = file
    for old in place.glob("step-*.safetensors"):
        if old.name != file:
            old.unlink()


def _resume(folder: Path, state: _State, runtime: Runtime) -> None:
    """Load the saved state, if there is one that is whole; one that is damaged is reported, and the training starts again."""
    path = folder / GROWING / "state.json"
    try:
        record = read_record(path, frozenset({"step", "file", "rows"}))
        tensors = _saved_tensors(path, record, state)
    except FileNotFoundError:
        return
    except TfcliError as error:
        if error.code != ExitCode.ARTIFACT:
            raise
        why = f"{error.what}: {error.why}"
        runtime.report(Warn(f"the saved state of the autoencoder cannot be used, its training starts again ({why})"))
        path.unlink(missing_ok=True)
        return
    state.step, state.rows, state.saved = record["step"], record["rows"], record["file"]
    with torch.no_grad():
        for name, tensor in state.ema.items():
            tensor.copy_(tensors[f"ema/{name}"])
        for prefix, module, optimizer in _parts(state):
            for name, weight in module.named_parameters():
                weight.copy_(tensors[f"{prefix}/{name}"])
                if f"{prefix}/exp_avg/{name}" in tensors:
                    # The moments must lie in memory as the weight does (channels_last): fused AdamW walks over both.
                    slots = {slot: tensors[f"{prefix}/{slot}/{name}"] for slot in ("exp_avg", "exp_avg_sq")}
                    optimizer.state[weight] = {
                        "step": tensors[f"{prefix}/step/{name}"],
                        **{slot: torch.empty_like(weight).copy_(values) for slot, values in slots.items()},
                    }
    runtime.report(Note(f"going on from step {state.step}"))


def _saved_tensors(path: Path, record: dict[str, Any], state: _State) -> dict[str, Tensor]:
    """The tensors that a record names. Raises TfcliError (ARTIFACT) where they are not those of this training."""
    step, file, rows = record.get("step"), record.get("file"), record.get("rows")
    whole = isinstance(step, int) and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if not whole or file != f"step-{step:08d}.safetensors":
        raise TfcliError(f"{path} is damaged", why=f"it is of step {step} and names {file!a}", code=ExitCode.ARTIFACT)
    tensors_file = inside(path.parent, file)
    tensors = read_tensors(tensors_file)
    wanted = {f"ema/{name}": tensor.shape for name, tensor in state.ema.items()}
    for prefix, module, _ in _parts(state):
        for name, weight in module.named_parameters():
            keys = [f"{prefix}/{name}"]
            if any(f"{prefix}/{slot}/{name}" in tensors for slot in ("step", "exp_avg", "exp_avg_sq")):
                keys += [f"{prefix}/{slot}/{name}" for slot in ("exp_avg", "exp_avg_sq")]
            wanted |= dict.fromkeys(keys, weight.shape)
    bad = next((name for name, shape in wanted.items() if name not in tensors or tensors[name].shape != shape), None)
    is_other = "file_sha256" in record and record["file_sha256"] != hash_file(tensors_file)
    if bad is not None or is_other:
        why = "its sha256 differs" if is_other else f"{bad} is missing or has another shape"
        raise TfcliError(f"{tensors_file} is damaged", why=why, code=ExitCode.ARTIFACT)
    return tensors


def _parts(state: _State) -> list[tuple[str, torch.nn.Module, torch.optim.AdamW]]:
    parts: list[tuple[str, torch.nn.Module, torch.optim.AdamW]] = [("model", state.model, state.optimizer)]
    if state.discriminator is not None and state.discriminator_optimizer is not None:
        parts.append(("discriminator", state.discriminator, state.discriminator_optimizer))
    return parts


def _reconstruct(vae: Vae, pictures: Pixels) -> Pixels:
    batches = [pictures[start : start + 32] for start in range(0, len(pictures), 32)]
    return np.concatenate([vae.decode(vae.encode(batch)[0]) for batch in batches])
