"""uint8 RGB <-> raw latents: the only user of diffusers. Only autoencoder classes of a short list, only safetensors."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stages.coders.pixels import Pixels
from stages.coders.vae_files import class_of, refuse_pipeline, tensors_of, vae_error
from stages.core.device import resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import apply_umask
from stages.core.hashing import hash_file, hash_value
from stages.core.reading import open_plain
from stages.core.system import memory_refused, refuse_unreadable

_WEIGHTS, _WEIGHTS_FP16 = (f"diffusion_pytorch_model{kind}.safetensors" for kind in ("", ".fp16"))
_WEIGHT_TYPES = ("F32", "F16", "BF16", "F64")
Floats = np.ndarray[Any, np.dtype[np.float32]]


class Vae:
    """An autoencoder on a device. Latents are raw: no scaling factor is applied, that is the business of LatentScale.

    Weights lie channels_last: 1.3 times as fast as else in float32 on two cores at 64 px, 1.6 in bfloat16 (measured).
    precision: of weights and computation. compiled: by torch.compile, for `encode` alone.
    """

    def __init__(
        self, model: Any, device: torch.device, precision: Literal["fp32", "bf16"] = "fp32", compiled: bool = False
    ) -> None:
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        # not the model's own `to`, which warns of casts
        torch.nn.Module.to(model, device, self.dtype)
        model.to(memory_format=torch.channels_last)
        self.model = model.eval()
        self.device = device
        self.class_name = type(model).__name__
        self.max_batch = 0  # 0: no bound was met yet
        self._encode = torch.compile(model.encode) if compiled else model.encode

    @property
    def latent_channels(self) -> int:
        return int(self.model.config["latent_channels"])

    def probe(self) -> list[float]:
        """Mean over places of each latent channel of a fixed picture of ramps: other weights, or a library that computes
        otherwise, give other numbers."""
        down, right = np.indices((64, 64))
        picture = np.stack([4 * right, 3 * down, 2 * right], -1).astype(np.uint8)
        return [round(float(value), 4) for value in self.encode(picture[None])[0][0].mean((1, 2))]

    def downsampling(self) -> int:
        """Pixels along a side of a latent pixel, measured on a small blank picture."""
        for side in (64, 128, 256):
            mean, _ = self.encode(np.zeros((1, side, side, 3), np.uint8))
            if mean.shape[-1] > 0:
                factor: int = side // mean.shape[-1]
                return factor
        raise TfcliError("the autoencoder gives empty latents", code=ExitCode.ARTIFACT)

    @torch.inference_mode()
    def encode(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """uint8 (N, H, W, 3) -> posterior mean and std, float32 (N, C, h, w). std is 0 for classes without one.

        Where the device's memory is too small for N pictures, they go in smaller batches from then on (max_batch).
        Raises TfcliError (ENVIRONMENT) where it is too small for one.
        """
        try:
            step = self.max_batch or len(pixels)
            parts = [self._encode_batch(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        except torch.OutOfMemoryError as error:
            self.max_batch = step // 2
            if self.max_batch == 0:
                raise TfcliError(
                    f"{self.device} has too little memory to encode one picture of {pixels.shape[1]} x {pixels.shape[2]}",
                    fix="make images.size smaller, or use --device cpu",
                    code=ExitCode.ENVIRONMENT,
                ) from error
            torch.cuda.empty_cache()
            return self.encode(pixels)
        return np.concatenate([mean for mean, _ in parts]), np.concatenate([std for _, std in parts])

    def _encode_batch(self, pixels: Pixels) -> tuple[Floats, Floats]:
        encoded = self._encode(self._to_input(pixels))
        if hasattr(encoded, "latent_dist"):
            mean, std = encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
        else:
            mean = (encoded.latents if hasattr(encoded, "latents") else encoded.latent).float()
            std = torch.zeros_like(mean)
        return mean.cpu().numpy(), std.cpu().numpy()

    @torch.inference_mode()
    def decode(self, raw: Floats) -> Pixels:
        """Raw latents (N, C, h, w) -> uint8 (N, H, W, 3)."""
        latents = torch.from_numpy(np.ascontiguousarray(raw)).to(self.device, self.dtype)
        return to_pixels(self.model.decode(latents).sample)

    def _to_input(self, pixels: Pixels) -> Tensor:
        """Bytes go to the device as they are: a quarter of what floats would be."""
        values = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.device.type == "cuda":
            values = values.pin_memory().to(self.device, non_blocking=True)
        # channels_last by itself: the channels of pixels are last
        return to_signed(values).to(self.dtype)


def to_signed(pixels_NHW3: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1]."""
    return pixels_NHW3.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(signed: Tensor) -> Pixels:
    """The inverse of `to_signed`, clipped to what a picture can hold."""
    scaled = ((signed.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def build_vae(channels: tuple[int, ...], layers_per_block: int, latent_channels: int, norm_groups: int) -> Any:
    """A small AutoencoderKL with fresh weights, no attention."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        norm_num_groups=norm_groups,
        mid_block_add_attention=False,
    )


def load_vae(
    path: Path | str,
    *,
    revision: str | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    compiled: bool = False,
) -> Vae:
    """Load from a local folder, or from the hub by id and 40-hex revision.

    Raises TfcliError (ARTIFACT) for a wrong class, missing or surplus weights, non-finite weights or no safetensors;
    ENVIRONMENT where the hub cannot be reached.
    """
    target = resolve_device(device)
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        _check_folder(folder)
        model = _from_pretrained(str(folder), class_of(folder), local_files_only=True, variant=_variant(folder))
    elif folder.exists():
        fix = f"give the folder of config.json and {_WEIGHTS}, such as {folder.parent}"
        raise vae_error(path, "it is a file, not a folder", fix)
    elif _is_path(str(path)):
        raise vae_error(path, "no such folder", "check the path, or give a hub id such as org/name with its commit")
    else:
        model = _from_hub(str(path), revision)
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise vae_error(path, f"the weight {name} holds non-finite numbers", "get a clean copy of the weights")
    return Vae(model, target, precision, compiled)


def save_vae(vae: Vae, folder: Path) -> dict[str, Any]:
    """Write the autoencoder as diffusers does; returns what identifies it (the fields of Identity in stages.artifacts)."""
    probe = vae.probe()
    vae.model.to("cpu").save_pretrained(folder, safe_serialization=True)
    files = sorted(folder.glob("*.safetensors"))
    apply_umask(files)
    hashes = [hash_file(file) for file in files]
    return {
        "class_name": vae.class_name,
        "weights_sha256": hashes[0] if len(hashes) == 1 else hash_value(hashes),
        "scaling_factor": vae.model.config.get("scaling_factor"),
        "shift_factor": vae.model.config.get("shift_factor"),
        "probe": probe,
    }


def _check_folder(folder: Path) -> None:
    refuse_pipeline(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        others = [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        why = f"only {others[0]}, a pickle that could run code" if others else "no *.safetensors file in it"
        raise vae_error(folder, why, "convert the weights to diffusion_pytorch_model.safetensors")
    for file in weights:
        try:
            with open_plain(file) as handle:
                start = handle.read(64)
        except OSError as error:
            refuse_unreadable(file, error)
            raise
        if start.startswith(b"version https://git-lfs"):
            raise vae_error(folder, f"{file.name} is a git-lfs pointer, not the weights", "run 'git lfs pull' there")
        if start.lstrip()[:1] == b"<":
            raise vae_error(folder, f"{file.name} is an HTML page", "download the file again")
        _check_types(file)


def _is_path(name: str) -> bool:
    """Whether a name that is not there is meant as a path: it is no hub id, or its first part is a folder here."""
    parts = name.split("/")
    hub_like = re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9._-]+", name) is not None
    return not hub_like or os.path.isdir(parts[0]) or name.endswith((".safetensors", ".bin", ".pt", ".ckpt"))


def _variant(folder: Path) -> str | None:
    """The half of a download that is there: in float32 (None), or in float16 alone."""
    return "fp16" if not (folder / _WEIGHTS).exists() and (folder / _WEIGHTS_FP16).exists() else None


@contextmanager
def _silent() -> Iterator[None]:
    """Without what diffusers logs: of weights that are missing it says that they were made up, and asks to train them. They are
    refused here."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_types(file: Path) -> None:
    """Refuse weights in 8 bits and in whole numbers. torch would load them as they are: without the factors that belong to
    them, or after a rounding of up to 6 %, they are another autoencoder."""
    for name, (found, _) in tensors_of(file).items():
        if found not in _WEIGHT_TYPES:
            why = f"the weight {name} is {found}, not one of {', '.join(_WEIGHT_TYPES)}"
            raise vae_error(file.parent, why, "get the weights in float16, bfloat16 or float32")


def _from_pretrained(path: str, class_name: str, **options: Any) -> Any:
    import diffusers

    try:
        with _silent():
            model, info = getattr(diffusers, class_name).from_pretrained(
                path, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False, **options
            )
    except Exception as error:  # it raises anything on files that do not belong together
        if memory_refused(error) is not None:
            raise
        raise vae_error(path, " ".join(str(error).split())[:300], "give a complete diffusers autoencoder") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            word = kind.removesuffix("_keys")
            raise vae_error(
                path,
                f"{len(info[kind])} weights are {word}, e.g. {sorted(map(str, info[kind]))[0]}",
                "get the whole weights",
            )
    return model


def _from_hub(name: str, revision: str | None) -> Any:
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise TfcliError(
            f"{name}: a hub id needs its commit",
            why="no folder of that name is here, and names on the hub can change what they hold",
            fix="check the path, or set vae.revision to the 40-hex commit",
            code=ExitCode.USAGE,
        )
    from huggingface_hub import hf_hub_download

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:  # the hub client raises many kinds; each means that the file could not be had
        why = f"it is no local folder and the hub gave {type(error).__name__}"
        raise TfcliError(
            f"cannot get {name}", why=why, fix="give vae.path a local folder", code=ExitCode.ENVIRONMENT
        ) from error
    found = class_of(config.parent)
    try:
        model = _from_pretrained(name, found, revision=revision)
    except TfcliError as first:
        try:  # some have float16 alone
            model = _from_pretrained(name, found, revision=revision, variant="fp16")
        except TfcliError:
            raise first from None
    for file in sorted(config.parent.glob("*.safetensors")):  # where the hub's client has put them
        _check_types(file)
    return model
