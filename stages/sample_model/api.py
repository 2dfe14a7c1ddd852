"""A loaded model for Python: parts in, typed events out; the same prompts, pictures and settings as `tfcli sample` takes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from stages.artifacts.folder import RECIPE
from stages.coders.pictures import fit
from stages.coders.pixels import BadImage, to_image, upright_rgb
from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.generation.config import GenerationConfig, Precision
from stages.generation.engine import Engine
from stages.generation.loading import load_model
from stages.generation.prompts import Denoised, Ended, ImageDone, ImagePiece, Piece, Prompt, TextAdded, TextPiece
from stages.sample_model.events import End, Event, Picture, Step, Text
from stages.sample_model.pictures import drawn_pixels, edit_of, fit_of, picture_piece
from stages.sample_model.tasks import default_next, draw_number, latent_size, prompt_to


class Model:
    """A checkpoint that is ready to generate. config: the settings it was trained with, where its recipe names them."""

    def __init__(self, folder: Path, device: str = "auto", precision: Precision | None = None) -> None:
        """precision: "fp32" or "bf16"; None: as in the recipe."""
        config = _config_of(folder)
        self.config = config if precision is None else config.model_copy(update={"precision": precision})
        self.loaded = load_model(folder, device, self.config.precision)

    def generate(
        self,
        parts: Iterable[Any],
        *,
        draw: bool | Literal["model"] | None = None,
        count: int = 1,
        seed: int = 0,
        index: int = 0,
        size: str | None = None,
        negative: str = "",
        begin: Path | str | None = None,
        mask: Path | str | None = None,
        strength: float = 1.0,
        **settings: Any,
    ) -> Iterator[Event]:
        """Go on with a document of `parts`: str is text; a path (pathlib) or a pillow image is a picture.

        draw: True draws a picture next and ends, False writes text only, "model" lets the model decide; None: a picture for
        texts, text for pictures, the model's choice behind both. count: samples, whose events alternate. seed: the same call
        gives the same result. index: the place of the prompt among others, from 0, as records have it: then each take is that
        of `tfcli sample`. size: "WIDTHxHEIGHT" in pixels of what it draws. negative: text that guidance leads away from.
        begin, mask, strength: files of the picture that drawing begins from and of where it may change (white), and the share
        of the noise that it goes through. settings: keys of [sample.generation] (guidance, temperature, sampler ...).

        Raises TfcliError: USAGE for a setting or a part that cannot be, INPUT for a picture that cannot be used.
        """
        config = self._config(settings)
        pieces = tuple(self._piece(part) for part in parts)
        kinds = {type(piece) for piece in pieces}
        if draw is None:
            draw = True if begin else default_next(has_text=TextPiece in kinds, has_picture=ImagePiece in kinds)
        wished = None if size is None else latent_size(size, self.loaded)
        edit = None if begin is None else edit_of(Path(begin), Path(mask) if mask else None, strength, self.loaded)
        prompt = prompt_to(draw, pieces, config.max_images, self.loaded, "the prompt", wished)
        prompt = replace(prompt, negative=negative, edit=edit)
        # as 'tfcli sample' names its draws
        engine = Engine(self.loaded, config, derive_seed(seed, "prompts"), Runtime())
        return self._events(engine, prompt, {draw_number(index, take): take for take in range(count)})

    def _events(self, engine: Engine, prompt: Prompt, takes: dict[int, int]) -> Iterator[Event]:
        """takes: by the number of their draws."""
        for event in engine.stream([prompt] * len(takes), takes, steps=True):
            take = takes[event.prompt]
            match event:
                case TextAdded(text=text):
                    yield Text(take, text)
                case Denoised(t=t):
                    yield Step(take, 1 - t / self.loaded.diffusion.num_steps)
                case ImageDone(number=place, image=image):
                    edit = None if place else prompt.edit
                    yield Picture(take, to_image(drawn_pixels(image.latent[None], edit, self.loaded)[0]))
                case Ended(reason=reason):
                    yield End(take, reason)

    def _config(self, settings: dict[str, Any]) -> GenerationConfig:
        if settings.get("precision", self.config.precision) != self.config.precision:
            fix = "load(..., precision=...)"
            raise TfcliError("precision belongs to the loaded weights", fix=fix, code=ExitCode.USAGE)
        try:
            return GenerationConfig.model_validate({**self.config.model_dump(), **settings})
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(str(key) for key in first['loc'])}: {first['msg']}"
            fix = f"the settings are {', '.join(GenerationConfig.model_fields)}"
            raise TfcliError(what, fix=fix, code=ExitCode.USAGE) from error

    def _piece(self, part: Any) -> Piece:
        if isinstance(part, str):
            return TextPiece(part)
        if isinstance(part, os.PathLike):
            return picture_piece(Path(part), self.loaded)
        images = fit_of(self.loaded.latents)
        try:
            return ImagePiece(self.loaded.read_picture(fit(upright_rgb(part, images.policy), images)))
        except TypeError as error:
            fix = "give str, pathlib.Path or PIL.Image parts"
            raise TfcliError(str(error), fix=fix, code=ExitCode.USAGE) from error
        except BadImage as bad:
            raise TfcliError(
                f"a picture cannot be used: {bad.reason}", why=bad.message, fix="give another one"
            ) from bad


def _config_of(folder: Path) -> GenerationConfig:
    """The recipe's own settings beside the checkpoint; the defaults where an older tfcli left none."""
    try:
        tree = json.loads((folder / RECIPE).read_bytes())
    except FileNotFoundError:
        return GenerationConfig()
    return GenerationConfig.model_validate(tree.get("sample", {}).get("generation", {}))
