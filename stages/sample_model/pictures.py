"""Picture files as the model takes them in, what a drawing begins from, and what it draws as pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from stages.artifacts.latents import Latents
from stages.coders.config import Images
from stages.coders.masks import Mask, UnclearMask, fit_mask, read_mask
from stages.coders.pixels import BadImage, Pixels, decode
from stages.coders.quality import psnr, too_low
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Warn
from stages.core.runtime import Runtime
from stages.core.text import printable
from stages.diffusion.inpainting import cells_to_change, pasted
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImageEdit, ImagePiece, Prompt, TextPiece
from stages.sources.decoding import read_picture
from stages.sources.document import FileSpan


def edit_of(image: Path, mask: Path | None, strength: float, loaded: LoadedModel) -> ImageEdit:
    """What a drawing begins from. A latent pixel may change where any pixel below it is white in the mask.

    Raises TfcliError: INPUT for files that are no pictures, USAGE for a mask of another size or without any white, and where
    all or nothing of the picture would be left.
    """
    pixels = _fitted(image, loaded)
    change, reading = (None, "") if mask is None else _change(image, mask, loaded)
    levels = loaded.diffusion.num_steps
    start_level = round(strength * levels)
    if start_level == 0 or (start_level == levels and (change is None or bool(change.all()))):
        why = f"of {levels} noise levels it goes through {start_level}"
        why += ", and all of it may change" if start_level else ""
        raise TfcliError(
            f"strength {strength:g} leaves {'nothing' if start_level else 'all'} of {printable(str(image))}",
            why=why,
            fix="give another strength" + (", or a mask with something black in it" if start_level else ""),
            code=ExitCode.USAGE,
        )
    return ImageEdit(loaded.encode_picture(pixels), change, strength, pixels, reading)


def drawn_pixels(latents_IChw: Tensor, edit: ImageEdit | None, loaded: LoadedModel) -> Pixels:
    """Drawn latents as pictures (I, height, width, 3). Outside of the cells that could change they have the pixels of the
    picture that they began from: the autoencoder does not give them back exactly."""
    pictures = loaded.decode_pictures(latents_IChw.to(loaded.device))
    if edit is None or edit.pixels is None or edit.change_hw is None:
        return pictures
    return pasted(pictures, edit.pixels, shown_mask(edit.change_hw, loaded))


def shown_mask(change_hw: Tensor, loaded: LoadedModel) -> Mask:
    """Where latent pixels may change, in pixels of the picture."""
    factor = loaded.latents.content.downsampling
    return change_hw.cpu().numpy().repeat(factor, 0).repeat(factor, 1)


def _change(image: Path, mask: Path, loaded: LoadedModel) -> tuple[Tensor, str]:
    """Which latent pixels may change, and how a mask with transparent parts was understood."""
    images, name = fit_of(loaded.latents), f"mask {printable(str(mask))}"
    picture = decode(_read(image), images.policy).pixels
    try:
        read = read_mask(_read(mask), images.policy, picture)
    except BadImage as bad:
        raise _unusable(mask, bad.reason, bad.message) from bad
    except UnclearMask as unclear:
        fix = "paint white what may change and black what stays, and save it without transparency"
        raise TfcliError(f"{name} has transparent parts", why=str(unclear), fix=fix, code=ExitCode.USAGE) from unclear
    white = read.may_change
    if white.shape != picture.shape[:2]:
        raise TfcliError(
            f"{name} is {white.shape[1]}x{white.shape[0]}, the picture is {picture.shape[1]}x{picture.shape[0]}",
            fix="give a mask of the picture's size, white where it may change",
            code=ExitCode.USAGE,
        )
    change = cells_to_change(fit_mask(white, images), loaded.latents.content.downsampling)
    if not bool(change.any()):
        why = "it is white nowhere, so nothing may change"
        if white.any():
            why = "it is white only where the picture is cropped away, so nothing may change"
        raise TfcliError(name, why=why, fix="paint what may change white", code=ExitCode.USAGE)
    return change.to(loaded.device), f"{name}: {read.reading}" if read.reading else ""


def picture_piece(path: Path, loaded: LoadedModel) -> ImagePiece:
    """A picture file as the model sees it. Raises TfcliError (INPUT) with the reason where it cannot be read."""
    pixels = _fitted(path, loaded)
    return ImagePiece(loaded.encode_picture(pixels), pixels)


def warn_of_quality(prompts: Iterable[Prompt], loaded: LoadedModel, runtime: Runtime) -> None:
    """Report what the autoencoder makes of each picture that was given: what it loses the model never sees."""
    given = [piece for prompt in prompts for piece in (*prompt.pieces, prompt.edit) if not isinstance(piece, TextPiece)]
    for number, piece in enumerate(one for one in given if one is not None and one.pixels is not None):
        assert piece.pixels is not None
        quality = psnr([piece.pixels], loaded.decode_pictures(piece.latent[None].to(loaded.device)))
        if why := too_low(quality, f"given picture {number + 1}"):
            runtime.report(
                Warn(f"{why}; give a picture like those of the training, or see index.html for what is left")
            )
        else:
            runtime.report(Note(f"given picture {number + 1}: {quality:.1f} dB PSNR through the autoencoder"))


def _fitted(path: Path, loaded: LoadedModel) -> Pixels:
    fitted = read_picture(FileSpan(path), fit_of(loaded.latents))
    if fitted.pixels is None:
        raise _unusable(path, fitted.reason, fitted.message)
    return fitted.pixels


def _read(path: Path) -> bytes:
    try:
        return FileSpan(path).read()
    except OSError as error:
        raise _unusable(path, "UNREADABLE", error.strerror or str(error)) from error


def _unusable(path: Path, reason: str, message: str) -> TfcliError:
    what = f"picture {printable(str(path))} cannot be used: {reason}"
    return TfcliError(what, why=message, fix="give another picture, or save it again as PNG")


def fit_of(latents: Latents) -> Images:
    """How the pictures of the latents were cropped and resized."""
    return Images.model_validate(latents.manifest.config["images"])
