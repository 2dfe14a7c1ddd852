"""Rows 19 to 26: captions, tables of captions, tars, and what calls itself a path."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.lab import GOOD, Case, Lab, Outcome, sets

TAR = "sources/test_webdataset.py::"
SOURCE = ("source.kind=webdataset", "source.path=set.tar")


def captions(lab: Lab) -> tuple[str, ...]:
    data = lab.shelf.pictures[0]
    for name, caption in {
        "missing": None,
        "empty": b" \n",
        "long": b"x" * 1001,
        "nul": b"a\x00b",
        "latin": b"caf\xe9",
    }.items():
        lab.add(f"{name}.png", data, caption)
    lab.add("mark.png", data, "a \u2581 b")
    # encode.max_bad: six of the first hundred are more than a run takes by default
    return sets("source.max_text_bytes=1000", "encode.max_bad=0.5")


def cleaned(lab: Lab) -> None:
    lab.add("bom.png", lab.shelf.pictures[0], b"\xef\xbb\xbfa cat")
    lab.add("crlf.png", lab.shelf.pictures[0], b"one\r\ntwo\r\n")


def texts_of(lab: Lab) -> set[str]:
    rows = [
        json.loads(line)
        for path in (lab.folder / "work" / "latents" / "documents").iterdir()
        for line in path.read_text().splitlines()
    ]
    return {part["text"] for row in rows for part in row["segments"] if "text" in part}


def is_clean(lab: Lab, _outcome: Outcome) -> None:
    assert {"a cat", "one\ntwo"} < texts_of(lab)


def marks(lab: Lab) -> None:
    for number, text in enumerate(["<boi>", "<|image|>", "</s>", "<pad><eoi>"]):
        lab.add(f"mark{number}.png", lab.shelf.pictures[0], text)


def no_control_id(lab: Lab, _outcome: Outcome) -> None:
    from stages.artifacts.tokens import Tokens

    assert lab.run("tokenize").code == 0
    tokens = Tokens.open(lab.folder / "work" / "tokens")
    marks = tokens.content
    ids = set(tokens.array("ids").tolist())
    assert ids
    assert not ids & {marks.bos, marks.eos, marks.boi, marks.eoi, marks.pad}


def metadata(*lines: object, name: str = "metadata.jsonl") -> Callable[[Lab], None]:
    """A maker of a table of captions; a string is written as it is."""

    def make(lab: Lab) -> None:
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (lab.folder / "pictures" / name).write_text("\n".join(text) + "\n")

    return make


def entry(name: str) -> dict[str, str]:
    return {"file_name": name, "text": "a thing"}


def tar(*members: tuple[str, bytes | tarfile.TarInfo]) -> bytes:
    """An archive with these files; a TarInfo instead of data is written as a header alone."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def good_members(lab: Lab) -> list[tuple[str, bytes | tarfile.TarInfo]]:
    pairs = enumerate(lab.shelf.pictures)
    return [member for number, data in pairs for member in ((f"{number}.png", data), (f"{number}.txt", b"a thing"))]


def holds(*more: tuple[str, bytes | tarfile.TarInfo], keep: int | None = None, settings: tuple[str, ...] = ()) -> Callable[[Lab], tuple[str, ...]]:  # fmt: skip
    """A maker of set.tar: the good samples and `more`; keep: cut to this many bytes (from the end where negative)."""

    def make(lab: Lab) -> tuple[str, ...]:
        data = tar(*good_members(lab), *more)
        (lab.folder / "set.tar").write_bytes(data[:keep])
        return sets(*SOURCE, *settings)

    return make


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("link.png")
    info.type, info.linkname = kind, target
    return info


def claims(size: int) -> Callable[[Lab], tuple[str, ...]]:
    """A member whose header says that it has `size` bytes."""

    def make(lab: Lab) -> tuple[str, ...]:
        info = tarfile.TarInfo("vast.png")
        info.size = size
        data = tar(*good_members(lab))
        end = len(data.rstrip(b"\0")) // 512 * 512 + 512
        (lab.folder / "set.tar").write_bytes(data[:end] + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        return sets(*SOURCE)

    return make


class Canary:
    """Its pickle makes a file when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("canary"),))  # type: ignore[return-value]


def pickled(lab: Lab) -> tuple[str, ...]:
    import pickle

    data = pickle.dumps(Canary())
    return holds(("x.pkl", data), ("y.pth", data), ("z.pyd", data))(lab)


def not_run(lab: Lab, _outcome: Outcome) -> None:
    assert not list(lab.folder.rglob("canary"))
    assert lab.manifest("latents")["content"]["num_good"] == GOOD


def nothing_outside(lab: Lab, _outcome: Outcome) -> None:
    assert {path.name for path in lab.folder.iterdir()} == {"pictures", "work", "recipe.toml", "set.tar"}
    assert not (lab.folder.parent / "climb.png").exists()


def pipe(kind: str) -> Callable[[Lab], tuple[str, ...]]:
    def make(lab: Lab) -> tuple[str, ...]:
        os.mkfifo(lab.folder / "pipe")
        return sets(f"source.kind={kind}", "source.path=pipe")

    return make


def two_archives(lab: Lab) -> tuple[str, ...]:
    members = good_members(lab)
    (lab.folder / "set.tar").write_bytes(tar(*members[:6]) + tar(*members[6:]))
    return sets(*SOURCE)


def linked(lab: Lab) -> tuple[str, ...]:
    (lab.folder / "blob").write_bytes(tar(*good_members(lab)))
    (lab.folder / "tars").mkdir()
    (lab.folder / "tars" / "a.tar").symlink_to(lab.folder / "blob")
    return sets("source.kind=webdataset", "source.path=tars")


def no_captions(lab: Lab) -> None:
    for path in (lab.folder / "pictures").glob("*.txt"):
        path.unlink()


def bare(lab: Lab) -> tuple[str, ...]:
    """Pictures alone, encoded."""
    no_captions(lab)
    return encoded(lab, "source.missing_caption=empty")


def many_letters(lab: Lab) -> tuple[str, ...]:
    lab.add("letters.png", lab.shelf.pictures[0], "".join(map(chr, range(0x4E00, 0x4E00 + 200))))
    return encoded(lab)


def encoded(lab: Lab, *settings: str) -> tuple[str, ...]:
    outcome = lab.run("encode", *sets(*settings))
    assert outcome.code == 0, outcome.stderr
    return sets(*settings)


def few_captions(lab: Lab) -> None:
    for number in range(29):
        lab.add(f"more{number}.png", lab.shelf.pictures[0], None)


def damaged_and_bare(lab: Lab) -> None:
    for number in range(3):
        lab.add(f"damaged{number}.png", b"")
        lab.add(f"bare{number}.png", lab.shelf.pictures[0], None)


def all_there(lab: Lab, _outcome: Outcome) -> None:
    assert lab.manifest("latents")["content"]["num_good"] == GOOD


CASES = [
    Case(19, "caption missing, empty, too long, with NUL, not UTF-8, with U+2581", captions, 0,
         ("missing.png: CAPTION_MISSING", "empty.png: CAPTION_MISSING", "long.png: TEXT_TOO_LONG", "nul.png: TEXT_NUL", "latin.png: TEXT_NOT_UTF8", "mark.png: TEXT_U2581"),
         note="source.max_text_bytes, 65,536 by default, is 1,000 here"),
    Case(19, "caption with a byte order mark, with CRLF", cleaned, 0, ("goes through",), check=is_clean, note="both are cleaned"),
    Case(20, "caption of <boi>, <|image|>, </s>", marks, 0, ("goes through",), check=no_control_id,
         note="plain text: no control id in `tokens`", held=("coders/test_text.py::test_text_never_gives_a_mark",)),
    Case(21, "metadata.jsonl: line 17 is not JSON", metadata(*[entry(f"good{n % GOOD}.png") if n < GOOD else "" for n in range(16)], "{"), 3, ("error: pictures/metadata.jsonl:17: not JSON",)),
    Case(21, "metadata.jsonl: unknown file_name", metadata(entry("nobody.png")), 3, ("metadata.jsonl:1:", "nobody.png is not a picture in the folder")),
    Case(21, "metadata.jsonl: a name twice", metadata(entry("good0.png"), entry("good0.png")), 3, ("metadata.jsonl:2:", "first in line 1")),
    Case(21, "metadata.jsonl: absolute path", metadata(entry("/etc/passwd")), 3, ("absolute paths are refused",)),
    Case(21, "metadata.jsonl: path that climbs", metadata(entry("../secret.png")), 3, ("paths with .. are refused",)),
    Case(22, "metadata.csv without a header", metadata("good0.png,a thing", name="metadata.csv"), 3, ("needs the columns file_name", "the columns found are: good0.png, a thing")),
    Case(22, "metadata.csv with semicolons", metadata("file_name;text", "good0.png;a thing", name="metadata.csv"), 3, ("the columns found are: file_name;text",)),
    Case(23, "tar cut at a header", holds(keep=2048), 3, ("error: set.tar: TAR_TRUNCATED after",)),
    Case(23, "tar cut in a header", holds(keep=2148), 3, ("error: set.tar: TAR_TRUNCATED after",)),
    Case(23, "tar cut in data", holds(keep=700), 3, ("error: set.tar: TAR_TRUNCATED after",), held=(TAR + "test_every_cut_is_found",)),
    Case(23, "the same with allow_truncated", holds(keep=8700, settings=("source.allow_truncated=true",)), 0, ("set.tar: TAR_TRUNCATED (after",)),
    Case(23, "two tars written into one file", two_archives, 0, ("goes through",), check=all_there),
    Case(23, "a folder of tars that are symbolic links", linked, 3, ("no tars in tars", "SKIPPED_LINK", "source.follow_links=true")),
    Case(19, "no picture has a caption: vae", no_captions, 3, ("6 CAPTION_MISSING", "missing_caption"), command="vae"),
    Case(19, "no picture has a caption: encode", no_captions, 3, ("6 CAPTION_MISSING", "missing_caption")),
    Case(19, "29 of 35 pictures have no caption", few_captions, 3, ("29 of the first", "mostly CAPTION_MISSING", "missing_caption")),
    Case(19, "three pictures damaged, three without a caption", damaged_and_bare, 3, ("6 of the first", "cannot be used")),
    Case(19, "no text at all: tokenize", bare, 3, ("no text to train a tokenizer on",), command="tokenize"),
    Case(19, "more characters than the vocabulary holds: tokenize", many_letters, 3, ("a vocabulary of 300 is too small",), command="tokenize"),
    Case(24, "tar: a key comes back", holds(("0.txt", b"again")), 3, ("the key 0 appears again", "tar --sort=name")),
    Case(24, "tar: names without extension, that climb, absolute; links", holds(("README", b"x"), ("../climb.png", b"x"), ("/abs.png", b"x"), ("", link(tarfile.SYMTYPE, "/etc/passwd"))), 0,
         ("UNSAFE_NAME", "SKIPPED_SPECIAL", "without an extension"), check=nothing_outside),
    Case(24, "tar: 1 TB claimed", claims(1 << 40), 3, ("TAR_TRUNCATED", "claims 1,099,511,627,776 bytes"), check=nothing_outside, held=(TAR + "test_absurd_sizes_cost_no_memory",)),
    Case(25, "tar with .pkl, .pyd, .pth", pickled, 0, ("IGNORED_MEMBERS", "1 .pkl"), check=not_run, note="counted, never run"),
    *[Case(17, f"named pipe as source: {kind}", pipe(kind), code, (words,)) for kind, code, words in (
        ("folder", 2, "images folder is not a folder: pipe"), ("webdataset", 2, "not a plain file: pipe"), ("jsonl", 2, "not a plain file: pipe"),
        ("parquet", 2, "not a plain file: pipe"), ("text", 3, "not a plain file or a folder: pipe"))],
    Case(26, "pipe: as a path", lambda _: sets("source.kind=webdataset", "source.path=pipe:cat x.tar"), 2, ("only local paths are accepted (got pipe:)",)),
    Case(26, "http: as a path", lambda _: sets("source.kind=webdataset", "source.path=http://host/x.tar"), 2, ("only local paths are accepted (got http:)",)),
    Case(26, "file: as a path", lambda _: sets("source.path=file:///etc/passwd"), 2, ("only local paths are accepted (got file:)",)),
]  # fmt: skip
