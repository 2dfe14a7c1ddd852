"""The columns of a table: which are there, of what type, and how one of turns is read as text. Reads schemas, no rows.

A column of texts holds strings, or turns: a list of structs of `role` and `content`, or of `user` and `assistant`. Turns are
read as text by one rule: a line `role: content` (`user: ...`, `assistant: ...`) for each, in their order, joined by line
feeds; what is null or empty is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from stages.core.errors import TfcliError
from stages.core.text import printable

# text: strings or turns. name: strings. key: any plain value. picture: bytes, a path, a struct of them. texts, pictures:
# lists of such.
Kind = Literal["text", "name", "key", "picture", "texts", "pictures"]
_HOLDS = {
    "text": "texts or turns of a conversation",
    "name": "texts",
    "key": "texts or numbers",
    "picture": "pictures (bytes, or a path)",
    "texts": "lists of texts, or turns of a conversation",
    "pictures": "lists of pictures",
}
_ROLES, _SPEAKERS = ("role", "content"), ("user", "assistant")


def check_columns(path: Path, schema: Any, wanted: Mapping[str, Kind]) -> None:
    """Raise TfcliError (INPUT) that names the column and its type where one of `wanted` cannot hold what is read from it.
    All readers of tables ask this before they read a row. Columns that are not there are passed over."""
    for name, kind in wanted.items():
        if name in schema.names and not _fits(schema.field(name).type, kind):
            fits = [other for other in schema.names if _fits(schema.field(other).type, kind)]
            others = f"; columns of that type here: {_listed(fits)}" if fits else ""
            raise TfcliError(
                f"{printable(str(path))}: the column {printable(name)} holds {_shown(schema.field(name).type)}",
                why=f"it is read for {_HOLDS[kind]}{others}",
                fix="name another column in the recipe, or write the table again with the text as strings"
                if kind in ("text", "name", "texts")
                else "name another column in the recipe, or write the table again",
            )


def no_column(
    path: Path, wanted: Iterable[str], option: str, schema: Any, kind: Kind, but: tuple[str, ...] = ()
) -> TfcliError:
    """An INPUT error for a table without any of the columns `wanted`. option: of the recipe that names another, or "". but:
    columns that are read for something else."""
    fits = [name for name in schema.names if name not in but and _fits(schema.field(name).type, kind)]
    return TfcliError(
        f"{printable(str(path))}: no column {printable(' or '.join(wanted))}",
        why=f"the columns found are: {_listed(schema.names)}",
        fix=name_column(option, fits),
    )


def name_column(option: str, candidates: list[str]) -> str:
    """The fix for a missing column: the setting that names one of those that are there."""
    if not option:
        return "rename a column, or write the table again"
    if not candidates:
        return f"name the column with {option}"
    more = f" (or another of: {_listed(candidates)})" if len(candidates) > 1 else ""
    setting = f"--set {option}={candidates[0]}" if option.startswith("source.") else f'{option} = "{candidates[0]}"'
    return printable(setting) + more


def text_of_turns(value: Any) -> str | None:
    """The text of turns by the rule above; None where `value` is no list of turns."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value) or not value:
        return "" if value == [] else None
    lines: list[str] = []
    for turn in value:
        if set(_ROLES) <= set(turn):
            turns_of_speakers = [(turn["role"], turn["content"])]
        elif set(_SPEAKERS) <= set(turn):
            turns_of_speakers = [(name, turn[name]) for name in _SPEAKERS]
        else:
            return None
        for role, content in turns_of_speakers:
            if not isinstance(content, str | None) or not isinstance(role, str | None):
                return None
            if content:
                lines.append(f"{role}: {content}" if role else content)
    return "\n".join(lines)


def holds_turns(kind: Any) -> bool:
    """Whether a column of this type holds turns."""
    import pyarrow as pa

    if not _is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    parts = {field.name: field.type for field in kind.value_type}
    return any(all(name in parts and _is_text(parts[name]) for name in names) for names in (_ROLES, _SPEAKERS))


def _fits(kind: Any, wanted: Kind) -> bool:
    import pyarrow as pa

    if pa.types.is_null(kind):  # every row is null
        return True
    if wanted == "text":
        return _is_text(kind) or holds_turns(kind)
    if wanted == "name":
        return _is_text(kind)
    if wanted == "key":
        return not pa.types.is_nested(kind) and not _is_bytes(kind)
    if wanted == "picture":
        return _is_picture(kind)
    if wanted == "texts":
        return (_is_list(kind) and _is_text(kind.value_type)) or holds_turns(kind)
    return _is_list(kind) and _is_picture(kind.value_type)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    view = getattr(pa.types, "is_string_view", lambda _: False)
    return bool(pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or view(kind))


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_picture(kind: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return _is_bytes(kind) or _is_text(kind)
    parts = {field.name: field.type for field in kind}
    has_bytes = "bytes" in parts and (_is_bytes(parts["bytes"]) or pa.types.is_null(parts["bytes"]))
    return has_bytes or ("path" in parts and _is_text(parts["path"]))


def _shown(kind: Any) -> str:
    text = printable(" ".join(str(kind).split()))
    return text if len(text) <= 120 else f"{text[:117]}..."


def _listed(names: Iterable[str]) -> str:
    return printable(", ".join(names))[:200] or "none"
