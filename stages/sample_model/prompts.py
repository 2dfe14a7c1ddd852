"""Prompts as people write them -> MixedPrompts: arguments with <image> marks, files of lines, JSONL of documents, stdin.

{"parts": [{"text": "What is in "}, {"image": "img/7a.png"}, {"text": "?"}], "draw": false}
{"parts": [{"text": "a red circle"}], "begin": {"image": "a.png", "mask": "hole.png"}, "negative": "blue"}

Paths in a file are relative to it and stay inside its folder; those of arguments are the user's own. Imports no torch.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import read_bounded
from stages.core.text import printable, shortened
from stages.sample_model.config import MixedPrompt, PicturePart, PromptOptions, TextPart
from stages.sources.captions import json_objects
from stages.sources.files import existing, file_below
from stages.sources.text_rules import BadText, clean_text

MARK = "<image>"
MAX_TEXT_BYTES = 1 << 20  # of one text; whether the model can take it in is its row length's business
MAX_FILE_BYTES = 64 << 20
NONE = PromptOptions()


def prompt_of(text: str, pictures: Sequence[str], prompt_options: PromptOptions = NONE) -> str | MixedPrompt:
    """A prompt from the command line: each <image> in the text stands for the next picture; without one the pictures come
    first. A bare text stays a string. Raises TfcliError (USAGE) where the marks are not as many as the pictures."""
    pieces = text.split(MARK)
    marks = len(pieces) - 1
    if pictures and not marks:
        pieces = ["" for _ in pictures] + [text]
    elif marks != len(pictures):
        raise TfcliError(
            f"{_shown(text)}: {marks} {MARK} and {len(pictures)} --image",
            why=f"each {MARK} stands for one picture",
            fix=f"give --image for each {MARK}, in their order",
            code=ExitCode.USAGE,
        )
    parts: list[TextPart | PicturePart] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append(PicturePart(image=str(picture_file(pictures[number - 1]))))
        if piece:
            parts.append(TextPart(text=checked_text(piece, f"prompt {_shown(text)}")))
    if (text != "" and not text.strip()) or not (parts or prompt_options.begin):
        why = "it is empty; --set sample.free=4 lets the model write on its own"
        raise TfcliError(f"prompt {_shown(text)}", why=why, fix="give a text to draw, or --image", code=ExitCode.USAGE)
    if prompt_options == NONE and not pictures:
        return text
    return MixedPrompt(parts=tuple(parts), **dict(prompt_options))


def read_prompts(path: Path, prompt_options: PromptOptions = NONE) -> list[str | MixedPrompt]:
    """The prompts of a file: a document a line in .jsonl, else a text a line; blank lines are passed over. prompt_options: for
    those that say nothing of it themselves. Raises TfcliError (USAGE) that names the line."""
    path = existing(str(path), "file of prompts")
    if not path.is_file():
        raise TfcliError(f"not a plain file: {printable(str(path))}", fix="give a file", code=ExitCode.USAGE)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise _too_long(path)
    return parse_prompts(read_bounded(path), path, path.suffix == ".jsonl", prompt_options)


def parse_prompts(
    data: bytes, path: Path, jsonl: bool | None = None, prompt_options: PromptOptions = NONE
) -> list[str | MixedPrompt]:
    """Prompts from the bytes of a file; `path` names it in errors, and picture paths are relative to its folder.

    jsonl: whether each line is a document; None (stdin): if the first line starts with a brace.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _too_long(path)
    if jsonl is None:
        jsonl = data.removeprefix(BOM_UTF8).lstrip().startswith(b"{")
    found = list(_documents(data, path, prompt_options) if jsonl else _texts(data, path, prompt_options))
    if not found:
        what = f"no prompts in {printable(str(path))}"
        raise TfcliError(
            what, why="it has no line with anything in it", fix="write a prompt a line", code=ExitCode.USAGE
        )
    return found


def _texts(data: bytes, path: Path, prompt_options: PromptOptions) -> Iterator[str | MixedPrompt]:
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{printable(str(path))}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise _wrong(where, f"byte {error.start} is not UTF-8") from error
        if text:
            text = checked_text(text, f"prompt {where}")
            yield text if prompt_options == NONE else MixedPrompt(parts=(TextPart(text=text),), **dict(prompt_options))


def _documents(data: bytes, path: Path, prompt_options: PromptOptions) -> Iterator[MixedPrompt]:
    try:
        for number, record in json_objects(data.splitlines(), path):
            yield _document(record, path, f"{printable(str(path))}:{number}", prompt_options)
    except TfcliError as error:
        raise TfcliError(error.what, why=error.why, fix=error.fix, code=ExitCode.USAGE) from error


def _document(record: dict[str, Any], path: Path, where: str, prompt_options: PromptOptions) -> MixedPrompt:
    # id and group: as sources/jsonl.py has them
    values = {key: value for key, value in record.items() if key not in ("id", "group")}
    for key, value in prompt_options.model_dump(exclude_defaults=True).items():
        values.setdefault(key, value)
    try:
        prompt = MixedPrompt.model_validate(values)
    except ValidationError as error:
        raise _wrong(where, _reason(error)) from error

    def inside(name: str) -> str:
        try:
            return str(path.parent / file_below(path.parent, name))
        except (ValueError, FileNotFoundError) as error:
            raise _wrong(where, f"image {error}") from error

    parts: list[TextPart | PicturePart] = [
        TextPart(text=checked_text(part.text, f"prompt {where}"))
        if isinstance(part, TextPart)
        else PicturePart(image=inside(part.image))
        for part in prompt.parts
    ]
    begin = prompt.begin
    if begin is not None and "begin" in record:
        mask = None if begin.mask is None else inside(begin.mask)
        begin = begin.model_copy(update={"image": inside(begin.image), "mask": mask})
    negative = checked_text(prompt.negative, f"negative text of {where}")
    return prompt.model_copy(update={"parts": tuple(parts), "begin": begin, "negative": negative})


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(key) for key in first["loc"] if key not in ("TextPart", "PicturePart"))
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return f"unknown key {printable(name)} (known: {', '.join(MixedPrompt.model_fields)})"
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    if name.startswith("parts."):
        return f'{printable(name)}: every part is {{"text": "..."}} or {{"image": "path"}}'
    return f"{printable(name)}: {first['msg']}"


def picture_file(name: str, option: str = "--image") -> Path:
    """A picture that an option names. Raises TfcliError (USAGE) where no file is there."""
    path = existing(name, "picture")
    if not path.is_file():
        what = f"{option} {printable(name)}"
        raise TfcliError(what, why="not a plain file", fix="give a picture", code=ExitCode.USAGE)
    return path


def check_prompt_options(prompt_options: PromptOptions) -> PromptOptions:
    """Themselves. Raises TfcliError (USAGE) for a negative text that no prompt could be."""
    checked_text(prompt_options.negative, "negative text")
    return prompt_options


def checked_text(text: str, what: str) -> str:
    """Itself, with lines ended by a line feed. Raises TfcliError (USAGE) that says `what` it is, where the tokenizer could not
    give it back."""
    try:
        return clean_text(text, MAX_TEXT_BYTES)
    except BadText as bad:
        raise TfcliError(what, why=bad.message, fix="write another one", code=ExitCode.USAGE) from bad


def _shown(text: str) -> str:
    """The beginning of a prompt for a message."""
    return repr(shortened(text, 60))


def _wrong(where: str, what: str) -> TfcliError:
    return TfcliError(f"{where}: {what}", fix="correct or remove that line", code=ExitCode.USAGE)


def _too_long(path: Path) -> TfcliError:
    what = f"{printable(str(path))} has more than {MAX_FILE_BYTES >> 20} MiB of prompts"
    return TfcliError(what, fix="split it into several files", code=ExitCode.USAGE)
