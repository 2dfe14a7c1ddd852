"""Text for messages: file names and texts from outside, made safe to print and cut to a length."""

from __future__ import annotations


def shortened(text: str, longest: int) -> str:
    """The beginning of a text for a message, `longest` characters at most."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def printable(name: str) -> str:
    """A hostile file name for a message: control characters, direction marks and broken bytes as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
