"""A recipe: one TOML file, at most one `extends`, dotted `--set` values on top; strict, frozen, hashable.

The tree of sections is assembled here from each folder's config.py; a key is defined by its owner only.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from stages.coders.config import Images
from stages.core.config import Section
from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import read_bounded
from stages.diffusion.config import DiffusionConfig
from stages.encode_images.config import EncodeConfig
from stages.evaluate_model.config import EvalConfig
from stages.model.config import ModelConfig
from stages.pack_sequences.config import PackConfig
from stages.recipe_errors import explained, override_key, unusable
from stages.sample_model.config import SampleConfig
from stages.sources.mix import SourceConfig
from stages.tokenize_text.config import TokenizeConfig
from stages.train_autoencoder.config import TrainVae, VaeConfig
from stages.train_model.config import TrainConfig

_MAX_BYTES = 1 << 20  # of a recipe


class Recipe(Section):
    """Everything that a run needs. Only `source` has no default."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """The name of the run; artifacts go to work/NAME where --work does not say otherwise. Not set: the name of the recipe's
    file."""
    description: str = ""
    """One line for people, shown by 'tfcli recipe list'."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the random draws of all stages."""
    source: SourceConfig
    """Where the data comes from."""
    images: Images = Images()
    """How every picture becomes pixels of a known size."""
    vae: VaeConfig = TrainVae()
    """The autoencoder between pixels and latents: trained here, or a finished one."""
    encode: EncodeConfig = EncodeConfig()
    """From pictures to latents."""
    tokenize: TokenizeConfig = TokenizeConfig()
    """From text to tokens."""
    pack: PackConfig = PackConfig()
    """From documents to rows of a fixed length."""
    model: ModelConfig = ModelConfig()
    """The transformer."""
    diffusion: DiffusionConfig = DiffusionConfig()
    """The image loss."""
    train: TrainConfig = TrainConfig()
    """The training."""
    sample: SampleConfig = SampleConfig()
    """What is sampled at the end."""
    eval: EvalConfig = EvalConfig()
    """How the model is judged at the end."""

    @model_validator(mode="after")
    def _sides_divide(self) -> Recipe:
        """Where the autoencoder is trained here, the recipe alone says whether patches fit: hours before packing would."""
        if isinstance(self.vae, TrainVae) and self.images.fit != "buckets":
            step = self.vae.downsampling * self.pack.patch_side
            size = self.images.size
            if size % step:
                near = ", ".join(str(each) for each in (size // step * step, (size // step + 1) * step) if each)
                raise ValueError(
                    f"images.size = {size} must be a multiple of {step} (vae.channels shrink pictures "
                    f"{self.vae.downsampling} times, pack.patch_side = {self.pack.patch_side}), such as {near}"
                )
        return self


def recipe_folders() -> list[Path]:
    """Where named recipes are looked for, in this order: ./recipes, then those that came with tfcli."""
    return [folder for folder in (Path("recipes"), *shipped_recipes()) if folder.is_dir()]


def shipped_recipes() -> list[Path]:
    """The folder of the recipes that came with tfcli: inside the installed package, or next to it in a checkout. Empty where
    an installation has lost them."""
    package = Path(str(resources.files("tfcli")))
    checkout = [package.parent / "recipes"] if (package.parent / "pyproject.toml").is_file() else []
    return [folder for folder in (package / "recipes", *checkout) if folder.is_dir()][:1]


def named_recipes() -> dict[str, Path]:
    """The recipes that can be given by name; of two of one name the first of `recipe_folders` counts."""
    known: dict[str, Path] = {}
    for folder in recipe_folders():
        for file in sorted(folder.glob("*.toml")):
            known.setdefault(file.stem, file)
    return known


def existing_recipes() -> dict[str, Path]:
    """The same. Raises TfcliError (ENVIRONMENT) where there is none at all: then the installation is broken."""
    known = named_recipes()
    if not known:
        looked = (
            ", ".join(str(folder) for folder in recipe_folders()) or "no recipes folder here or in the installation"
        )
        fix = "install tfcli again, or give a recipe by its file"
        raise TfcliError("no recipe was found", why=f"looked in: {looked}", fix=fix, code=ExitCode.ENVIRONMENT)
    return known


def find_recipe(name: str) -> Path:
    """The file of a recipe given as a path or as a bare name ("smoke"). Raises TfcliError (USAGE)."""
    # os.path, not pathlib: no such user, a NUL or a name that is too long is "no such file" here
    path = Path("/dev/stdin" if name == "-" else os.path.expanduser(name))
    if os.path.isfile(path) or name == "-" or _is_pipe(path):
        return path
    known = named_recipes()
    if name in known:
        return known[name]
    if os.path.isdir(path):
        fix = f"see 'tfcli recipe list'; for a folder of pictures: tfcli run folder --set source.path={name}"
        raise TfcliError(f"no recipe {name}", why="it is a folder", fix=fix, code=ExitCode.USAGE)
    close = difflib.get_close_matches(path.stem, known, n=1)
    fix = f"did you mean {close[0]}?" if close else "see 'tfcli recipe list'"
    raise TfcliError(f"no recipe {name}", why="no such file or name", fix=fix, code=ExitCode.USAGE)


def _is_pipe(path: Path) -> bool:
    """Whether the shell gives a recipe through a pipe: `-r <(...)`."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def name_from(path: Path) -> str:
    """The name of a recipe that has none of its own: that of its file, in the letters that names have."""
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:80] or "recipe"


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read, extend, override and validate. Raises TfcliError (USAGE) that names the file and the full key."""
    path = find_recipe(name)
    tree = merge_layers(read_layers(path))
    tree.setdefault("name", name_from(path))
    return make_recipe(tree, overrides, path)


def read_layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The files of a recipe and what each of them says: the one that it extends, if any, and itself."""
    tree = _read(path)
    base = tree.pop("extends", None)
    if base is None:
        return [(path, tree)]
    parent = path.parent / str(base)
    if not parent.is_file():
        parent = find_recipe(str(base).removesuffix(".toml"))
    below = _read(parent)
    if "extends" in below:
        raise unusable(
            path, f"{base} extends another recipe itself", "a recipe extends at most one other, one level deep"
        )
    return [(parent, below), (path, tree)]


def merge_layers(layers: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """What the files say together; a later one counts more."""
    merged: dict[str, Any] = {}
    for _, tree in layers:
        merged = _merged(merged, tree)
    return merged


def make_recipe(tree: dict[str, Any], overrides: tuple[str, ...], path: Path) -> Recipe:
    """Override and validate plain values. path: what messages name as their origin."""
    apply_overrides(tree, overrides)
    _name_kinds(tree, Recipe)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise explained(Recipe, path, error, overrides) from error


def apply_overrides(tree: dict[str, Any], overrides: tuple[str, ...]) -> None:
    """Put the values of --set into a tree of plain values."""
    for override in _kinds_first(overrides):
        _apply(tree, override)


def recipe_tree(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain JSON values."""
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    return tree


def recipe_bytes(path: Path) -> bytes:
    """A recipe's file as it is. Raises TfcliError (USAGE) where it cannot be read."""
    try:
        # a recipe may come through a pipe, which is read once; else a plain file alone
        if _is_pipe(path) or str(path) == "/dev/stdin":
            with path.open("rb") as file:
                return file.read(_MAX_BYTES)
        return read_bounded(path, _MAX_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> TfcliError:
    return unusable(path, f"cannot be read: {error}", "give a recipe file or a name of 'tfcli recipe list'")


def require_toml(path: Path, data: bytes) -> dict[str, Any]:
    """The tables of a recipe's file. Raises TfcliError (USAGE) where `data` is not TOML in UTF-8."""
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits and arrays 1,000 deep
        raise unusable(path, f"not TOML: {error}", "correct the file at that line") from error


def _read(path: Path) -> dict[str, Any]:
    return require_toml(path, recipe_bytes(path))


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections merge key by key; a section whose `kind` changes is replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        same_kind = isinstance(old, dict) and isinstance(value, dict) and value.get("kind") in (None, old.get("kind"))
        merged[key] = _merged(old, value) if same_kind else value  # type: ignore[arg-type]
    return merged


def _kinds_first(overrides: tuple[str, ...]) -> list[str]:
    """The overrides in an order in which none is lost: a `kind` clears its section, so it goes before the first key of that
    section, wherever it was given. Otherwise the later one counts."""
    ordered: list[str] = []
    for override in overrides:
        key = override_key(override)
        section = key.removesuffix("kind") if key.endswith(".kind") else None
        keys = [override_key(before) for before in ordered]
        firsts = [index for index, other in enumerate(keys) if section and other != key and other.startswith(section)]
        ordered.insert(firsts[0] if firsts else len(ordered), override)
    return ordered


def _apply(tree: dict[str, Any], override: str) -> None:
    """Apply one `a.b.c=value`; the value is TOML, or a bare string where TOML cannot read it."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise TfcliError(
            f"--set {override!r}", why="not of the form key=value", fix="--set train.steps=100", code=ExitCode.USAGE
        )
    try:
        lines = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        lines = {}
    value = lines["value"] if lines.keys() == {"value"} else text
    for part in parts[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise TfcliError(
                f"--set {key}",
                why=f"{part} is a value, not a section",
                fix="see 'tfcli recipe show'",
                code=ExitCode.USAGE,
            )
        tree = below
    if parts[-1] == "kind" and tree.get("kind") != value:
        tree.clear()
    tree[parts[-1]] = value


def _name_kinds(tree: dict[str, Any], model: type[BaseModel]) -> None:
    """A section that names no `kind` is of the kind that the default is: `[vae] steps = 9` needs no more."""
    for name, info in model.model_fields.items():
        section, default = tree.get(name), info.default
        if isinstance(section, dict) and isinstance(default, BaseModel):
            if "kind" in type(default).model_fields:
                section.setdefault("kind", getattr(default, "kind"))  # noqa: B009
            if section.get("kind") == getattr(default, "kind", None):
                _name_kinds(section, type(default))
