"""A diffusers autoencoder's folder before diffusers sees it: reads config.json, refuses what is none of the short list."""

from __future__ import annotations

import json
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import read_bounded
from stages.core.system import refuse_unreadable

CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
_PIPELINE = "model_index.json"
_MAX_CONFIG_BYTES = 1 << 20


def refused(path: Path | str, why: str, fix: str) -> TfcliError:
    return TfcliError(f"autoencoder {path} cannot be used", why=why, fix=fix, code=ExitCode.ARTIFACT)


def refuse_pipeline(folder: Path) -> None:
    """Raise TfcliError (ARTIFACT) for the folder of a whole pipeline, of which the autoencoder is a part."""
    if not (folder / "config.json").exists() and (folder / _PIPELINE).exists():
        why = f"it holds a whole pipeline ({_PIPELINE})"
        raise refused(folder, why, f"give the autoencoder inside: {folder / 'vae'}")


def class_of(folder: Path) -> str:
    """The class that config.json names, after a look at all that it says. Raises TfcliError (ARTIFACT)."""
    try:
        config = json.loads(read_bounded(folder / "config.json", _MAX_CONFIG_BYTES))
        name = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        refuse_unreadable(folder / "config.json", error)
        why = f"config.json is missing or names no class ({type(error).__name__})"
        raise refused(folder, why, "give the folder that diffusers' save_pretrained wrote") from error
    if name not in CLASSES:
        raise refused(folder, f"its class is {str(name)[:60]!r}", f"use one of {', '.join(CLASSES)}")
    return str(name)
