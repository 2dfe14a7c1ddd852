"""What an artifact was made from, as it is on disk now, and which artifacts took a training."""

from __future__ import annotations

from pathlib import Path

from stages.artifacts.manifest import Manifest, input_folder, is_other, read_manifest
from stages.core.errors import TfcliError

LEARNED = ("autoencoder", "checkpoint")  # kinds that take a training: a finished one is never replaced without the word


def readable(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none that can be read."""
    try:
        return read_manifest(folder)
    except TfcliError:
        return None


def is_learned(manifest: Manifest) -> bool:
    """Whether it took a training; an autoencoder may be a finished one that was copied in."""
    vae = manifest.config.get("vae")
    return manifest.kind == "checkpoint" or (isinstance(vae, dict) and vae.get("kind") == "train")


def lineage(folder: Path, manifest: Manifest) -> set[Path]:
    """The folder of an artifact, and those of all that it was made from that are still the same."""
    found: set[Path] = set()
    waiting = [(folder, manifest)]
    while waiting:
        here, own = waiting.pop()
        if here.resolve() in found:
            continue
        found.add(here.resolve())
        for entry in own.inputs.values():
            path = input_folder(here, entry)
            below = readable(path)
            if below is not None and not is_other(entry, below):
                waiting.append((path, below))
    return found
