"""Where tensors live and in which precision they multiply. torch is imported inside: command-line code may import this."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from stages.core.errors import ExitCode, TfcliError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """ "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N". Raises TfcliError (ENVIRONMENT) if it is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TfcliError(
            f"--device {name}: no such device", fix="--device auto, cpu, cuda or cuda:0", code=ExitCode.USAGE
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        why = f"this torch sees {torch.cuda.device_count()} CUDA devices"
        raise TfcliError(f"--device {name}: no CUDA device", why=why, fix="use --device cpu", code=ExitCode.ENVIRONMENT)
    if device.type not in ("cpu", "cuda"):
        raise TfcliError(f"--device {name} is not supported", fix="use cpu or cuda", code=ExitCode.USAGE)
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast over fp32 weights where precision is "bf16", else nothing."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
