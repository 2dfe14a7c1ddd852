"""The rules for text from outside: bytes or strings -> clean text, or BadText with a reason."""

from __future__ import annotations

# SentencePiece writes a space as U+2581; the character itself would come back as a space.
_SPACE_MARK = "\u2581"


class BadText(Exception):
    """Text that cannot be used. `reason` is an upper-case code, `message` a line for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


def decode_text(data: bytes, max_bytes: int) -> str:
    """Text of a file or a line: UTF-8 without a byte order mark, lines ended by a line feed."""
    if len(data) > max_bytes:
        raise BadText("TEXT_TOO_LONG", f"more than {max_bytes:,} bytes (max_text_bytes)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadText("TEXT_NOT_UTF8", f"byte {error.start} is not UTF-8") from error
    return clean_text(text, max_bytes)


def clean_text(text: str, max_bytes: int) -> str:
    """Text from outside as every reader takes it: lines ended by a line feed, whatever system wrote them; and `check_text`."""
    return require_lossless(text.replace("\r\n", "\n").replace("\r", "\n"), max_bytes)


def require_lossless(text: str, max_bytes: int) -> str:
    """`text` itself if the tokenizer can give it back unchanged."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise BadText("TEXT_SURROGATE", f"character {error.start} is half of a surrogate pair") from error
    if size > max_bytes:
        raise BadText("TEXT_TOO_LONG", f"{size:,} bytes > {max_bytes:,} (max_text_bytes)")
    if "\x00" in text:
        raise BadText("TEXT_NUL", f"character {text.index(chr(0))} is NUL")
    if _SPACE_MARK in text:
        raise BadText(
            "TEXT_U2581", f"character {text.index(_SPACE_MARK)} is U+2581, which the tokenizer uses for a space"
        )
    return text
