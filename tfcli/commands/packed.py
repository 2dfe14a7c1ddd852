"""A packed row for people: its documents with marks, text and pictures in colour; without colour the marks tell all."""

from __future__ import annotations

from stages.preview.rows import PackedDocument, PackedRow, Span
from tfcli import render

_STYLES = {
    "bos": "bold green",
    "eos": "bold red",
    "boi": "bold magenta",
    "eoi": "bold magenta",
    "size": "magenta",
    "image": "black on cyan",
}


def show_packed(row: PackedRow) -> None:
    """Print the row: a line about each document, and its elements below."""
    used = row.length - row.unused
    render.show(f"{row.side} row {row.row}: {len(row.documents)} documents in {used} of {row.length} elements", "")
    for number, document in enumerate(row.documents):
        _show_document(number, document)
    if row.unused:
        render.show(
            render.styled((f"[unused x {row.unused}]", "dim"), (f"  elements {used} to {row.length - 1}", "dim"))
        )


def _show_document(number: int, document: PackedDocument) -> None:
    end = document.start + document.length - 1
    described = [f"elements {document.start} to {end}", f"document {document.index}"]
    described += [f"key {document.key}"] if document.key else ["of a text corpus"]
    described += ["caption dropped"] if document.caption_dropped else []
    render.show(render.styled((f"--- {number}: {', '.join(described)}", "dim")))
    render.show(render.styled(*[piece for span in document.spans for piece in _pieces(span)]), "")


def _pieces(span: Span) -> list[tuple[str, str]]:
    """(text, style) of a span: user text in quotes, what is ours in brackets."""
    if span.kind == "text":
        # in quotes, so that a caption that spells a mark is seen to be a caption
        text = span.text.replace("\\", "\\\\").replace('"', '\\"')
        return [('"', "dim"), (text, ""), ('"', "dim")]
    if span.image is None:
        return [(f"<{span.kind}>", _STYLES[span.kind])]
    image = span.image
    name = f": {image.name}" if image.name else ""
    size = f"image {image.patches_high}x{image.patches_wide}, {span.length} patches"
    return [(f"[{size}, row {image.row} of latents{name}]", _STYLES["image"])]
