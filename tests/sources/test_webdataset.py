"""The tar source: round trip, laziness, and hostile archives built byte by byte."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import tracemalloc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import Document, FileSpan, Omission, TextSegment
from stages.sources.webdataset import Webdataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import pulls in torch, which warns on some machines
    import webdataset.tariterators  # noqa: F401


def tar(path: Path, members: Sequence[tuple[str, bytes] | tarfile.TarInfo], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def pairs(count: int) -> list[tuple[str, bytes]]:
    return [
        (f"{index:03}.{suffix}", f"{suffix} {index}".encode()) for index in range(count) for suffix in ("jpg", "txt")
    ]


def run(path: Path | str, **options: Any) -> tuple[list[Document], list[Omission]]:
    source = Webdataset(path=str(path), **options)
    items = list(source.documents())
    assert items == list(source.documents())
    documents = [item for item in items if isinstance(item, Document)]
    return documents, [item for item in items if isinstance(item, Omission)]


def refused(path: Path | str, **options: Any) -> TfcliError:
    with pytest.raises(TfcliError) as caught:
        list(Webdataset(path=str(path), **options).documents())
    return caught.value


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_round_trip(tmp_path: Path, form: int) -> None:
    long = "deep/" * 15 + "x"
    path = tar(tmp_path / "s.tar", [*pairs(3), (f"{long}.png", b"p"), (f"{long}.txt", b" long name\r\n")], form)
    documents, omissions = run(path)
    assert omissions == []
    assert [document.key for document in documents] == ["s/000", "s/001", "s/002", f"s/{long}"]
    assert documents[3].segments[0] == TextSegment("long name")
    assert not documents[0].fixed_order
    assert [document.images[0].picture.read() for document in documents] == [b"jpg 0", b"jpg 1", b"jpg 2", b"p"]
    assert documents[0].images[0].name == "s.tar/000.jpg"
    assert isinstance(documents[0].images[0].picture, FileSpan)
    assert pickle.loads(pickle.dumps(documents)) == documents


def test_captions_of_json(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"1"),
        ("a.json", json.dumps({"caption": " from json "}).encode()),
        ("b.jpg", b"2"),
        ("b.json", b'{"caption": "json"}'),
        ("b.txt", b"txt wins"),
        ("c.jpg", b"3"),
        ("c.json", b'{"other": "x"}'),
        ("d.jpg", b"4"),
        ("d.json", b"{broken"),
        ("e.jpg", b"5"),
        ("e.json", b'{"caption": 5}'),
        ("f.JPG", b"6"),
        ("f.json", b'{"caption": "f", "url": "x"}'),
    ]
    documents, omissions = run(tar(tmp_path / "s.tar", members))
    texts = [document.segments[0] for document in documents]
    assert texts == [TextSegment("from json"), TextSegment("txt wins"), TextSegment("f")]
    assert [(item.key, item.reason) for item in omissions] == [
        ("s/c", "CAPTION_MISSING"),
        ("s/d", "JSON_BROKEN"),
        ("s/e", "JSON_BROKEN"),
    ]
    assert run(tmp_path / "s.tar", json_key="other")[0][-1].segments[0] == TextSegment("x")


def test_many_tars_by_folder_and_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("002", "000", "sub/001"):
        tar(tmp_path / f"{name}.tar", pairs(1))
    assert [document.key for document in run(tmp_path)[0]] == ["000/000", "002/000", "sub/001/000"]
    assert Webdataset(path=str(tmp_path)).count() == (3, 3)
    by_pattern = run(f"{tmp_path}/{{000,002}}.tar")[0]
    assert [document.key for document in by_pattern] == ["000/000", "002/000"]
    assert [document.key for document in run(f"{tmp_path}/{{000..002..2}}.tar")[0]] == ["000/000", "002/000"]
    assert refused(f"{tmp_path}/{{000..002}}.tar").code == ExitCode.USAGE
    assert "more than" in refused(f"{tmp_path}/{{0..99999999}}.tar").what
    assert "not a pattern" in refused(f"{tmp_path}/{{0..9.tar").what
    (tmp_path / "empty").mkdir()
    assert "no tars in" in refused(tmp_path / "empty").what


@pytest.mark.parametrize("url", ["pipe:touch {0..1}", "pipe:cat x.tar", "http://a/{0..9}.tar", "file:///etc/passwd"])
def test_only_local_paths(url: str) -> None:
    error = refused(url)
    assert error.what == f"only local paths are accepted (got {url.split(':')[0]}:)"
    assert error.code == ExitCode.USAGE


def test_every_cut_is_found(tmp_path: Path) -> None:
    whole = tar(tmp_path / "whole.tar", pairs(6)).read_bytes()
    end = len(whole.rstrip(b"\x00"))
    end += -end % 512
    cut = tmp_path / "cut.tar"
    for length in [0, 1, 511, 512, 513, 700, 1024, 1100, 5 * 1024, end - 1024, end - 512, end, end + 512, end + 1023]:
        cut.write_bytes(whole[:length])
        error = refused(cut)
        assert "TAR_TRUNCATED" in error.what, length
        assert error.code == ExitCode.INPUT
    cut.write_bytes(whole[: end + 1024])
    assert len(run(cut)[0]) == 6
    cut.write_bytes(whole[: 5 * 2048 + 100])
    assert "after 4 samples" in refused(cut).what
    documents, omissions = run(cut, allow_truncated=True, missing_caption="empty")
    assert [document.key for document in documents] == ["cut/000", "cut/001", "cut/002", "cut/003"]
    assert [item.reason for item in omissions] == ["TAR_TRUNCATED"]


def joined(folder: Path, *between: bytes) -> Path:
    """`cat` of two archives of three samples each, with bytes between and behind them."""
    first = tar(folder / "a.tar", pairs(3)).read_bytes()
    second = tar(folder / "b.tar", pairs(6)[6:]).read_bytes()
    (folder / "a.tar").unlink()
    (folder / "b.tar").unlink()
    path = folder / "all.tar"
    path.write_bytes(b"".join((first, between[0], second, *between[1:])))
    return path


@pytest.mark.parametrize("between", [b"", bytes(512), bytes(1 << 20)])
def test_an_archive_behind_another_is_read(tmp_path: Path, between: bytes) -> None:
    """`cat a.tar b.tar` gave the samples of the first, without a word."""
    path = joined(tmp_path, between, bytes(5120))
    documents, omissions = run(path)
    assert [document.key for document in documents] == [f"all/{number:03}" for number in range(6)]
    assert [document.images[0].picture.read() for document in documents] == [b"jpg %d" % n for n in range(6)]
    assert omissions == []
    assert Webdataset(path=str(path)).count() == (6, 6)


@pytest.mark.parametrize("rest", [b"x", b"x" * 5000, b"\0" * 700 + b"x"])
def test_what_is_no_archive_behind_the_end_is_named_by_its_byte(tmp_path: Path, rest: bytes) -> None:
    path = joined(tmp_path, b"", rest)
    whole = path.stat().st_size - len(rest)
    error = refused(path)
    assert "after 6 samples" in error.what
    assert f"at byte {(whole + rest.index(b'x')) // 512 * 512:,}" in error.why
    documents, omissions = run(path, allow_truncated=True)
    assert (len(documents), [item.reason for item in omissions]) == (6, ["TAR_TRUNCATED"])


def test_archives_of_other_blocks_are_not_half_read(tmp_path: Path) -> None:
    """A first archive of odd length: the header of the second is in no block of its own."""
    assert "at byte" in refused(joined(tmp_path, b"\0" * 100)).why


def test_a_second_archive_that_is_cut_or_damaged(tmp_path: Path) -> None:
    path = joined(tmp_path, b"")
    data = path.read_bytes()
    path.write_bytes(data[:-20_000] if len(data) > 40_000 else data[: len(data) // 2 + 700])
    assert "TAR_TRUNCATED" in refused(path).what


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    data = bytearray(tar(tmp_path / "s.tar", pairs(4)).read_bytes())
    data[4 * 1024 + 150] ^= 0xFF  # the checksum of the fifth member
    (tmp_path / "s.tar").write_bytes(data)
    assert "TAR_TRUNCATED" in refused(tmp_path / "s.tar").what


def test_keys_that_come_back(tmp_path: Path) -> None:
    apart = [("a.jpg", b"1"), ("b.jpg", b"2"), ("b.txt", b"b"), ("a.txt", b"a")]
    error = refused(tar(tmp_path / "s.tar", apart))
    assert error.what == "s.tar: the key a appears again"
    assert "--sort=name" in error.fix
    twice = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"a")]
    assert refused(tar(tmp_path / "t.tar", twice)).what == "t.tar: the key a appears again"
    both = [("a.jpg", b"1"), ("a.png", b"2"), ("a.txt", b"a")]
    assert [item.reason for item in run(tar(tmp_path / "u.tar", both))[1]] == ["DUPLICATE_KEY"]


def test_other_members_are_counted_and_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(canary),)

    bomb = pickle.dumps(Bomb())
    members = [
        ("a.jpg", b"1"),
        ("a.pkl", bomb),
        ("a.pth", bomb),
        ("a.txt", b"a"),
        ("noextension", b"x"),
        ("x.y.jpg", b"dotted"),
        ("__meta__.json", b"{}"),
        (".hidden", b""),
    ]
    documents, omissions = run(tar(tmp_path / "s.tar", members))
    assert [document.key for document in documents] == ["s/a"]
    (ignored,) = omissions
    assert ignored.reason == "IGNORED_MEMBERS"
    for part in ("1 .pkl", "1 .pth", "1 .y.jpg", "2 without an extension", "1 metadata"):
        assert part in ignored.message
    assert not canary.exists()


def test_links_devices_and_hostile_names(tmp_path: Path) -> None:
    def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    members = [
        special("dir.jpg", tarfile.DIRTYPE),
        special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard.jpg", tarfile.LNKTYPE, "a.jpg"),
        special("pipe.jpg", tarfile.FIFOTYPE),
        special("device.jpg", tarfile.CHRTYPE),
        special("sparse.jpg", tarfile.GNUTYPE_SPARSE),
        ("../../etc/x.jpg", b"x"),
        ("/abs/y.jpg", b"y"),
        ("..\\win.jpg", b"z"),
        ("n" * 2000 + ".jpg", b"n"),
        ("[/b]%s\x1b.jpg", b"odd"),
        ("[/b]%s\x1b.txt", b"odd but fine"),
    ]
    documents, omissions = run(tar(tmp_path / "s.tar", members))
    assert [document.key for document in documents] == ["s/[/b]%s\x1b"]
    assert [item.reason for item in omissions] == ["SKIPPED_SPECIAL"] * 5 + ["UNSAFE_NAME"] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar"]


def test_samples_without_a_picture_or_a_caption(tmp_path: Path) -> None:
    members = [("a.txt", b"a"), ("b.jpg", b"1"), ("c.jpg", b"2"), ("c.txt", b" "), ("d.jpg", b"3"), ("d.txt", b"\xff")]
    path = tar(tmp_path / "s.tar", members)
    assert [item.reason for item in run(path)[1]] == [
        "IMAGE_MISSING",
        "CAPTION_MISSING",
        "CAPTION_MISSING",
        "TEXT_NOT_UTF8",
    ]
    assert [document.key for document in run(path, missing_caption="empty")[0]] == ["s/b", "s/c"]


def test_absurd_sizes_cost_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 40
    (tmp_path / "huge.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 300 << 20
    with (tmp_path / "name.tar").open("wb") as file:
        file.write(name.tobuf(tarfile.GNU_FORMAT))
        file.truncate(301 << 20)  # a sparse file: takes no room
    text = tarfile.TarInfo("a.txt")
    text.size = 300 << 20
    with (tmp_path / "text.tar").open("wb") as file:
        file.write(tarfile.TarInfo("a.jpg").tobuf() + text.tobuf())
        file.truncate(301 << 20)
    tracemalloc.start()
    try:
        assert "TAR_TRUNCATED" in refused(tmp_path / "huge.tar").what
        assert "TAR_TRUNCATED" in refused(tmp_path / "name.tar").what
        assert [item.reason for item in run(tmp_path / "text.tar")[1]] == ["TEXT_TOO_LONG"]
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_negative_sizes_end(tmp_path: Path) -> None:
    block = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")  # base 256: the next header is this one again
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    (tmp_path / "s.tar").write_bytes(bytes(block) + bytes(2048))
    assert "TAR_TRUNCATED" in refused(tmp_path / "s.tar").what


def test_compressed_tars_are_named_as_such(tmp_path: Path) -> None:
    data = tar(tmp_path / "s.tar", pairs(1)).read_bytes()
    (tmp_path / "s.tar").write_bytes(gzip.compress(data))
    error = refused(tmp_path / "s.tar")
    assert "compressed (gzip)" in error.what
    assert "gunzip" in error.fix


def test_an_empty_tar_and_identity(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", [])
    assert run(path) == ([], [])
    before = Webdataset(path=str(path)).identity()
    assert Webdataset(path=str(tmp_path)).identity() == before
    tar(path, pairs(1))
    assert Webdataset(path=str(path)).identity() != before
    assert "1 tar files" in Webdataset(path=str(path)).describe()


@pytest.mark.parametrize(("told", "fails"), [(2, False), (1, False), (3, True), ("many", False)])
def test_a_tar_with_fewer_samples_than_img2dataset_counted_is_an_error(
    tmp_path: Path, told: object, fails: bool
) -> None:
    tar(tmp_path / "00000.tar", pairs(2))
    (tmp_path / "00000_stats.json").write_text(json.dumps({"count": 4, "successes": told}))
    source = Webdataset(path=str(tmp_path))
    if not fails:
        assert len([item for item in source.documents() if isinstance(item, Document)]) == 2
        return
    with pytest.raises(TfcliError, match=r"2 samples, 00000_stats\.json says 3") as caught:
        list(source.documents())
    assert caught.value.code == ExitCode.INPUT
    kept = Webdataset(path=str(tmp_path), allow_truncated=True)
    assert len([item for item in kept.documents() if isinstance(item, Document)]) == 2
