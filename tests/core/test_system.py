"""Memory that cannot be had is exit code 5 with its size, whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.errors import ExitCode
from stages.core.system import system_failure
from tfcli.app import as_failure

HUGE = 1 << 55  # more than any machine's address space


@pytest.mark.parametrize(
    ("ask", "size"),
    [
        (lambda: torch.empty(HUGE, dtype=torch.uint8), f"{HUGE:,} bytes"),
        (lambda: torch.nn.Linear(1 << 26, 1 << 27), f"{1 << 55:,} bytes"),
        (lambda: np.ones(HUGE, np.uint8), "32.0 PiB"),
        (lambda: bytearray(HUGE), ""),
    ],
)
def test_memory_that_is_refused(ask: Callable[[], Any], size: str) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        ask()
    failure = as_failure(caught.value)
    assert failure.code == ExitCode.ENVIRONMENT, failure.what
    assert failure.what == (f"out of memory: {size} could not be allocated" if size else "out of memory")
    assert "smaller" in failure.fix


def test_other_errors_are_none_of_the_system() -> None:
    assert system_failure(RuntimeError("shapes do not match")) is None
    assert as_failure(RuntimeError("shapes do not match")).code == ExitCode.BUG
