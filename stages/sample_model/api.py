"""A loaded model for Python: parts in, typed events out; the same prompts, pictures and settings as `tfcli sample` takes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, StrictInt, ValidationError

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.units import RECIPE
from stages.coders.pixels import BadImage, to_image, upright_rgb
from stages.core.config import Section
from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import read_bounded
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.generation.config import GenerationConfig, Precision
from stages.generation.engine import Engine
from stages.generation.loading import load_model
from stages.generation.prompts import Denoised, Ended, ImageDone, ImagePiece, Piece, Prompt, TextAdded, TextPiece
from stages.sample_model.config import MAX_COUNT, PromptOptions
from stages.sample_model.events import End, Event, Picture, Step, Text
from stages.sample_model.pictures import drawn_pixels, fit_of, picture_piece
from stages.sample_model.prompts import check_prompt_options, checked_text
from stages.sample_model.tasks import draw_number, engine_prompt
from stages.sources.decoding import fit

Checked = TypeVar("Checked", bound=Section)


class _Numbers(Section):
    """What `generate` takes in addition to PromptOptions and settings."""

    count: StrictInt = Field(1, ge=1, le=MAX_COUNT)
    seed: StrictInt = Field(0, ge=0, lt=2**63)
    index: StrictInt = Field(0, ge=0)


class Model:
    """A checkpoint that is ready to generate. config: the settings it was trained with, where its recipe names them."""

    def __init__(self, folder: Path, device: str = "auto", precision: Precision | None = None) -> None:
        """precision: "fp32" or "bf16"; None: as in the recipe."""
        Checkpoint.open(folder)
        config = _config_of(folder)
        self.config = (
            config if precision is None else _checked(GenerationConfig, {**config.model_dump(), "precision": precision})
        )
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
        """Continue a document and yield what the model writes and draws, as it comes.

        Args:
            parts: the document so far, in order: str is text; a path (pathlib) or a pillow image is a picture.
            draw: True draws a picture next and ends, False writes text only, "model" lets the model decide. None: a picture
                for text alone, text for pictures alone, the model's choice for a mixture.
            count: samples; their events alternate.
            seed: the same call gives the same result.
            index: number of the prompt among others, from 0, as in the records of `tfcli sample`: each sample is then the
                one in the record.
            size: "WIDTHxHEIGHT" in pixels of what it draws.
            negative: text that guidance leads away from.
            begin: file of the picture that drawing starts from.
            mask: file that says where that picture may change (white).
            strength: share of the noise levels that drawing goes through, above 0 and up to 1.
            settings: keys of [sample.generation] (guidance, temperature, sampler ...).

        Raises TfcliError: USAGE for a setting or a part that is not valid, INPUT for a picture that cannot be used.
        """
        config = self._config(settings)
        numbers = _checked(_Numbers, {"count": count, "seed": seed, "index": index})
        values = {"draw": draw, "size": size, "negative": negative, "begin": _edit_options(begin, mask, strength)}
        prompt_options = check_prompt_options(_checked(PromptOptions, values))
        if isinstance(parts, str | os.PathLike):
            raise TfcliError(f"parts is a {type(parts).__name__}", fix="give a list of parts", code=ExitCode.USAGE)
        pieces = tuple(self._piece(part) for part in parts)
        prompt = engine_prompt(prompt_options, pieces, config, self.loaded, "the prompt")
        # as 'tfcli sample' names its draws
        engine = Engine(self.loaded, config, derive_seed(numbers.seed, "prompts"), Runtime())
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
                case ImageDone(number=number, image=image):
                    edit = None if number else prompt.edit
                    yield Picture(take, to_image(drawn_pixels(image.latent[None], edit, self.loaded)[0]))
                case Ended(reason=reason):
                    yield End(take, reason)

    def _config(self, settings: dict[str, Any]) -> GenerationConfig:
        if settings.get("precision", self.config.precision) != self.config.precision:
            fix = "load(..., precision=...)"
            raise TfcliError("precision belongs to the loaded weights", fix=fix, code=ExitCode.USAGE)
        return _checked(GenerationConfig, {**self.config.model_dump(), **settings})

    def _piece(self, part: Any) -> Piece:
        if isinstance(part, str):
            return TextPiece(checked_text(part, "a text among the parts"))
        if isinstance(part, os.PathLike):
            return picture_piece(Path(part), self.loaded)
        images = fit_of(self.loaded.latents)
        try:
            return ImagePiece(self.loaded.encode_picture(fit(upright_rgb(part, images.policy), images)))
        except TypeError as error:
            fix = "give str, pathlib.Path or PIL.Image parts"
            raise TfcliError(str(error), fix=fix, code=ExitCode.USAGE) from error
        except BadImage as bad:
            raise TfcliError(
                f"a picture cannot be used: {bad.reason}", why=bad.message, fix="give another one"
            ) from bad


def _edit_options(begin: Any, mask: Any, strength: Any) -> dict[str, Any] | None:
    """As `EditOptions` has them. Raises TfcliError (USAGE) for a mask or a strength of nothing."""
    if begin is None:
        idle = [name for name, given in (("mask", mask is not None), ("strength", strength != 1)) if given]
        if idle:
            fix = "give the picture that drawing begins from: begin=..."
            raise TfcliError(f"{' and '.join(idle)} without begin", fix=fix, code=ExitCode.USAGE)
        return None
    image, mask = (os.fspath(file) if isinstance(file, os.PathLike) else file for file in (begin, mask))
    return {"image": image, "mask": mask, "strength": strength}


def _checked(kind: type[Checked], values: dict[str, Any]) -> Checked:
    """Values as the recipe would have them. Raises TfcliError (USAGE) that names the first wrong one."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(key) for key in first["loc"])
        what = f"{name}: {first['msg']}" if name else str(first["msg"])
        fix = f"the settings are {', '.join(GenerationConfig.model_fields)}"
        if kind is not GenerationConfig:
            fix = 'count: 1 to 1000; draw: True, False or "model"; size: "WIDTHxHEIGHT"; strength: above 0 and up to 1'
        raise TfcliError(what.replace("Value error, ", ""), fix=fix, code=ExitCode.USAGE) from error


def _config_of(folder: Path) -> GenerationConfig:
    """The recipe's own settings, kept next to the checkpoint; the defaults where an older tfcli left none."""
    path = folder / RECIPE
    try:
        tree = json.loads(read_bounded(path))
        return GenerationConfig.model_validate(tree.get("sample", {}).get("generation", {}))
    except FileNotFoundError:
        return GenerationConfig()
    except (ValueError, AttributeError, OSError) as error:  # not JSON, not a table, or settings of another version
        why = str(error).splitlines()[0]
        fix = "restore that file, or train the checkpoint again"
        raise TfcliError(f"{path} holds no recipe", why=why, fix=fix, code=ExitCode.ARTIFACT) from error
