"""The texts of a source under suspicion: reads documents as they come, makes findings. Pictures are not read."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator

from stages.core.hashing import hash_value
from stages.doctor.findings import Finding, Gravity, Sighting, share_text
from stages.sources.document import Document, TextSegment

LONG_CAPTION = 1000  # characters; alt texts and descriptions stay well below
_LONGER_THAN_OTHERS = 50  # times the median
_MUCH_TEXT = 20_000  # characters; below, a long document is no surprise
_FILE_NAME = re.compile(
    r"[^\s/\\]+\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic)|(img|dsc[fn]?|pict?|image|photo|screenshot)[-_ ]?\d+", re.I
)
_MARKUP = re.compile(r"</?[a-z][^<>]*>|&(amp|lt|gt|quot|nbsp|#\d+);", re.I)
_MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00e2\u20ac|\ufffd")  # UTF-8 once read as Latin-1, or lost
_LINK = re.compile(r"https?://|www\.", re.I)

# code -> (gravity, what is said of the number, the fix)
_SIGHTINGS: dict[str, tuple[Gravity, str, str]] = {
    "CAPTION_IS_FILE_NAME": ("problem", "texts are file names", "write what the picture shows, or leave the text out"),
    "TEXT_MARKUP": ("remark", "texts hold HTML tags or entities", "strip the markup: the model learns to write it"),
    "TEXT_ENCODING": ("problem", "texts were once read in a wrong encoding", "export the texts again as UTF-8"),
    "TEXT_CONTROLS": ("remark", "texts hold control or direction characters", "remove them: they cost tokens"),
    "TEXT_NOT_NFC": (
        "remark",
        "texts are not in Unicode's composed form (NFC)",
        "write all texts in one form, or a letter is spelt in two ways",
    ),
    "TEXT_LINKS": ("remark", "texts hold web addresses", "remove them if they say nothing of the picture"),
    "TEXT_DIGITS": ("remark", "texts are numbers only", "write names in place of class numbers"),
    "CAPTION_LONG": (
        "remark",
        f"captions are longer than {LONG_CAPTION:,} characters",
        "see that pack.row_length holds them with their picture",
    ),
    "PICTURE_ALONE": ("remark", "documents are pictures without a text", ""),
}


class TextTally:
    """Counts over all documents that are given to `add`."""

    def __init__(self) -> None:
        self.documents = 0
        self.lengths: list[int] = []  # characters of text in each document
        self._captions: Counter[str] = Counter()
        self._shown: dict[str, tuple[str, str]] = {}  # hash of a caption -> its beginning, the second key
        self._seen: defaultdict[str, Sighting] = defaultdict(Sighting)
        self._longest = (0, "")

    def add(self, document: Document) -> None:
        """Look at one document."""
        self.documents += 1
        texts = [segment.text for segment in document.segments if isinstance(segment, TextSegment)]
        length = sum(map(len, texts))
        self.lengths.append(length)
        self._longest = max(self._longest, (length, document.key))
        if document.images and not any(text.strip() for text in texts):
            self._seen["PICTURE_ALONE"].add(document.key)
        pair = len(texts) == 1 and len(document.images) == 1
        if pair:
            self._add_caption(texts[0], document.key)
        for code in {code for text in texts for code in suspicions(text, pair)}:
            start = next(text for text in texts if code in suspicions(text, pair))[:60]
            self._seen[code].add(f"{document.key}: {start}")

    def _add_caption(self, caption: str, key: str) -> None:
        # the hash, and words of those only that come again: a million captions stay within memory
        name = hash_value(caption)[:16]
        self._captions[name] += 1
        if self._captions[name] == 2:
            self._shown[name] = (caption[:60], key)

    def findings(self) -> Iterator[Finding]:
        """What was seen."""
        for code, sighting in self._seen.items():
            gravity, what, fix = _SIGHTINGS[code]
            yield Finding(
                code,
                gravity,
                f"{share_text(sighting.number, self.documents)} {what}",
                fix,
                sighting.number,
                sighting.examples,
            )
        yield from self._same_captions()
        median = sorted(self.lengths)[len(self.lengths) // 2] if self.lengths else 0
        length, key = self._longest
        if length > _MUCH_TEXT and length > _LONGER_THAN_OTHERS * max(1, median):
            what = f"one document has {length:,} characters, half of all have at most {median:,}"
            fix = "see whether it is one document; packing cuts what is longer than a row"
            yield Finding("DOCUMENT_LONG", "remark", what, fix, 1, (key,))

    def _same_captions(self) -> Iterator[Finding]:
        total = sum(self._captions.values())
        repeated = [(name, number) for name, number in self._captions.most_common() if number > 1]
        if not repeated:
            return
        number = sum(times for _, times in repeated)
        first = repeated[0][1]
        # shared words are no fault of a data set of shapes; one text for a third of all is
        gravity: Gravity = "problem" if first >= max(3, total / 3) else "remark"
        examples = tuple(
            f"{times:,} times: {self._shown[name][0]} (again at {self._shown[name][1]})" for name, times in repeated[:3]
        )
        what = f"{share_text(number, total)} captions have the same words as another one"
        fix = "write what tells the pictures apart" if gravity == "problem" else ""
        yield Finding("CAPTION_REPEATED", gravity, what, fix, number, examples)


def suspicions(text: str, caption: bool) -> list[str]:
    """Codes of what looks wrong about a text. caption: it is the only text of a picture."""
    bare = text.strip()
    found = {
        "CAPTION_IS_FILE_NAME": caption and bool(_FILE_NAME.fullmatch(bare)),
        "TEXT_MARKUP": bool(_MARKUP.search(text)),
        "TEXT_ENCODING": bool(_MOJIBAKE.search(text)),
        "TEXT_CONTROLS": any(_odd(char) for char in text),
        "TEXT_NOT_NFC": not unicodedata.is_normalized("NFC", text),
        "TEXT_LINKS": bool(_LINK.search(text)),
        "TEXT_DIGITS": caption and bare.isdigit(),
        "CAPTION_LONG": caption and len(text) > LONG_CAPTION,
    }
    return [code for code, there in found.items() if there]


def _odd(char: str) -> bool:
    """Control characters but line feed and tab; marks of direction. Joiners belong to emoji and to scripts."""
    if char in "\n\t\u200c\u200d":
        return False
    return (
        unicodedata.category(char) == "Cc"
        or char in "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )
