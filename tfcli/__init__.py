"""Generation from Python, the one documented API:

    from tfcli import load
    model = load("work/shapes/checkpoint")
    for event in model.generate(["a red circle left of a blue square"], seed=7):
        ...  # Text, Step, Picture, End

Failures are TfcliError. `load` imports torch; importing this does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.core.errors import TfcliError
    from stages.sample_model import End, Picture, Step, Text, load

__all__ = ["End", "Picture", "Step", "Text", "TfcliError", "load"]

if not TYPE_CHECKING:  # a type checker would take any name for granted

    def __getattr__(name: str) -> object:
        """The names above, imported when they are asked for."""
        if name not in __all__:
            raise AttributeError(f"module 'tfcli' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module("stages.core.errors" if name == "TfcliError" else "stages.sample_model"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
