"""A diffusers autoencoder's folder before diffusers sees it: reads config.json, refuses what is none of the short list."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import open_plain, read_bounded
from stages.core.system import refuse_unreadable

CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
_PIPELINE = "model_index.json"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_HEADER_BYTES = 100 << 20  # safetensors' own limit


_LISTS = 64  # items of a list
_MOST = 8192  # channels, blocks, sizes
_COUNTS = (
    "channels",
    "layers",
    "blocks",
    "groups",
    "dim",
    "size",
    "factor",
)  # keys that count something hold whole numbers
_BLOCKS = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D")


def vae_error(path: Path | str, why: str, fix: str) -> TfcliError:
    return TfcliError(f"autoencoder {path} cannot be used", why=why, fix=fix, code=ExitCode.ARTIFACT)


def refuse_pipeline(folder: Path) -> None:
    """Raise TfcliError (ARTIFACT) for the folder of a whole pipeline, of which the autoencoder is a part."""
    if not (folder / "config.json").exists() and (folder / _PIPELINE).exists():
        why = f"it holds a whole pipeline ({_PIPELINE})"
        raise vae_error(folder, why, f"give the autoencoder inside: {folder / 'vae'}")


def class_of(folder: Path) -> str:
    """The class that config.json names, after a look at all that it says. Raises TfcliError (ARTIFACT)."""
    try:
        config = json.loads(read_bounded(folder / "config.json", _MAX_CONFIG_BYTES))
        name = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        refuse_unreadable(folder / "config.json", error)
        why = f"config.json is missing or names no class ({type(error).__name__})"
        raise vae_error(folder, why, "give the folder that diffusers' save_pretrained wrote") from error
    if name not in CLASSES:
        raise vae_error(folder, f"its class is {str(name)[:60]!r}", f"use one of {', '.join(CLASSES)}")
    _check_config(folder, config)
    return str(name)


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    """Raise TfcliError (ARTIFACT) for a configuration whose values cannot be those of an autoencoder: diffusers builds whatever
    it says, of any size, before it looks at the weights."""
    if "quantization_config" in config:
        why = "its weights are quantized (quantization_config)"
        raise vae_error(folder, why, "get the weights in float16, bfloat16 or float32")
    for key, value in config.items():
        if not key.startswith("_") and (why := _wrong(key, value)):
            raise vae_error(folder, f"config.json: {key} {why}", "give the config.json that belongs to the weights")
    if config["_class_name"] == "AutoencoderKL" and (why := _wrong_kl(config)):
        raise vae_error(folder, f"config.json: {why}", "give the config.json that belongs to the weights")
    if why := _too_large(folder, config):
        raise vae_error(folder, why, "give the config.json that belongs to the weights")


def _wrong(key: str, value: Any, depth: int = 0) -> str:
    """What is wrong with a value; "" where nothing is."""
    if isinstance(value, list):
        if len(value) > _LISTS or depth > 1:
            return "is too long or too deep a list"
        return next((why for item in value if (why := _wrong(key, item, depth + 1))), "")
    if isinstance(value, dict):
        return "is a table"
    if isinstance(value, str):
        counts = any(word in key for word in _COUNTS) and not key.endswith(("types", "type", "fn", "fns"))
        return f"is {value[:40]!r}, not a number" if counts else "is too long" if len(value) > 100 else ""
    if isinstance(value, bool) or value is None:
        return ""
    if not math.isfinite(value):
        return f"is {value}"
    whole = any(word in key for word in ("channels", "layers", "blocks", "groups"))
    if whole and (not isinstance(value, int) or not 1 <= value <= _MOST):
        return f"is {value}, not a whole number from 1 to {_MOST:,}"
    return f"is {value:.3g}" if abs(value) > 1e6 else ""


def _wrong_kl(config: dict[str, Any]) -> str:
    """What does not fit together in the configuration of an AutoencoderKL."""
    widths, groups = config.get("block_out_channels", [64]), config.get("norm_num_groups", 32)
    downs = config.get("down_block_types", ["DownEncoderBlock2D"])
    ups = config.get("up_block_types", ["UpDecoderBlock2D"])
    layers = config.get("layers_per_block", 1)
    if not all(isinstance(each, list) and each for each in (widths, downs, ups)) or len(widths) > 8:
        return "block_out_channels, down_block_types and up_block_types are no lists of 1 to 8"
    if not len(widths) == len(downs) == len(ups):
        return "block_out_channels, down_block_types and up_block_types differ in length"
    if not all(isinstance(width, int) for width in widths) or not isinstance(groups, int):
        return "block_out_channels or norm_num_groups is no whole number"
    if any(width % groups for width in widths):
        return f"norm_num_groups {groups} does not divide block_out_channels {widths}"
    if not isinstance(layers, int) or layers > 16:
        return f"layers_per_block is {layers}"
    strange = next((one for one in (*downs, *ups) if one not in _BLOCKS), None)
    if strange is not None:
        return f"a block is {str(strange)[:40]!r}"
    return ""


def _too_large(folder: Path, config: dict[str, Any]) -> str:
    """What the configuration asks for that the weights do not have: its widest layers, so that no larger model is built than
    they are."""
    shapes = [shape for file in sorted(folder.glob("*.safetensors")) for _, shape in tensors_of(file).values()]
    sizes = {size for shape in shapes for size in shape}
    if not shapes:
        return ""  # the weights are looked at elsewhere
    for key, value in config.items():
        if key.endswith("block_out_channels") and isinstance(value, list) and value and max(value) not in sizes:
            return f"config.json has layers of {max(value):,} channels ({key}), the weights have none"
    for key, value in config.items():
        if "layers" in key or ("num_" in key and "blocks" in key):
            total = sum(value) if isinstance(value, list) else value
            if isinstance(total, int) and total > len(shapes):
                return f"config.json has {total:,} layers ({key}), the weights are {len(shapes):,} tensors"
    return ""


def tensors_of(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each tensor of a safetensors file, from its header; none where it is damaged, as loading will say."""
    try:
        with open_plain(file) as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(size, _MAX_HEADER_BYTES)))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: (str(entry["dtype"]), list(map(int, entry["shape"]))) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
