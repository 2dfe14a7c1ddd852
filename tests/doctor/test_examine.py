"""A hostile folder, tars, tables and text under the checkup: each fault is found once, named with its place, and nothing else."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.coders.config import Images
from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import Interrupts
from stages.core.runtime import Runtime
from stages.doctor.examine import Checkup, Limits, Spread, check_source
from stages.doctor.findings import GRAVITIES, Finding, share_text
from stages.doctor.guess import guess_source
from stages.doctor.pictures import near_twins, small_copy
from stages.doctor.rows import RowRules, Rows
from stages.doctor.texts import suspicions
from stages.sources.document import Document, FileSpan, ImageSegment, TextSegment
from stages.sources.folder import Folder
from stages.sources.mix import Mix
from stages.sources.text import TextFiles


def photo(seed: int, height: int = 64, width: int = 96) -> Image.Image:
    """A picture of coarse blocks, unlike any other seed's."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve good pairs."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(12):
        add(root, f"good{number:02}", photo(number), f"a thing with the number {number} on it")
    return root


def add(root: Path, name: str, image: Image.Image, caption: str | None, kind: str = "png", **options: Any) -> None:
    image.save(root / f"{name}.{kind}", **options)
    if caption is not None:
        (root / f"{name}.txt").write_text(caption)


def check(source: Any, limit: int = 100, **options: Any) -> Checkup:
    facts = {"limits": Limits(options.pop("max_bad", 0.05)), "latent_row_bytes": 100, **options}
    return check_source(source, Images(size=32), limit=limit, runtime=Runtime(workers=0), **facts)


def found(checkup: Checkup) -> dict[str, Finding]:
    codes = [finding.code for finding in checkup.findings]
    assert len(codes) == len(set(codes))
    return {finding.code: finding for finding in checkup.findings}


def test_nothing_is_said_of_a_good_folder(folder: Path) -> None:
    checkup = check(Folder(path=str(folder)))
    assert checkup.usable
    assert checkup.findings == ()
    assert (checkup.documents, checkup.pictures, checkup.looked_at, checkup.good) == (12, 12, 12, 12)
    assert checkup.sizes == [("64 to 127 px", 12)]
    assert checkup.latent_bytes == 1200


def _small(root: Path) -> None:
    add(root, "bad", photo(50, 20, 20), "small")


def _wide(root: Path) -> None:
    add(root, "bad", photo(50, 40, 200), "wide")


def _turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    add(root, "bad", photo(50), "turned", "jpg", exif=exif)


def _deep(root: Path) -> None:
    add(root, "bad", Image.fromarray((np.arange(4096).reshape(64, 64) * 16).astype(np.uint16)), "deep")


def _animated(root: Path) -> None:
    add(root, "bad", photo(50).convert("P"), "moves", "gif", save_all=True, append_images=[photo(51).convert("P")])


def _twin(root: Path) -> None:
    (root / "bad.png").write_bytes((root / "good03.png").read_bytes())
    (root / "bad.txt").write_text("the same bytes")


def _near(root: Path) -> None:
    add(root, "bad", photo(3).resize((192, 128)), "larger", "jpg", quality=95)


def _html(root: Path) -> None:
    (root / "bad.jpg").write_text("<html>no such page</html>")
    (root / "bad.txt").write_text("a page")


def _text(caption: str) -> Any:
    return lambda root: add(root, "bad", photo(50), caption)


CASES: dict[str, Any] = {
    "SMALLER_THAN_SIZE": _small,
    "LONG_SIDE": _wide,
    "TURNED": _turned,
    "DEEP": _deep,
    "ALPHA": lambda root: add(root, "bad", photo(50).convert("RGBA"), "clear"),
    "CMYK": lambda root: add(root, "bad", photo(50).convert("CMYK"), "press", "jpg"),
    "ANIMATED": _animated,
    "BLANK": lambda root: add(root, "bad", Image.new("RGB", (64, 64), "red"), "red"),
    "DUPLICATE": _twin,
    "NEAR_DUPLICATE": _near,
    "NOT_AN_IMAGE": _html,
    "CAPTION_MISSING": lambda root: add(root, "bad", photo(50), None),
    "CAPTION_IS_FILE_NAME": _text("IMG_2041"),
    "CAPTION_REPEATED": _text("a thing with the number 4 on it"),
    "CAPTION_LONG": _text("long " * 400),
    "TEXT_MARKUP": _text("a <b>bold</b> thing"),
    "TEXT_ENCODING": _text("a caf\u00c3\u00a9"),
    "TEXT_CONTROLS": _text("a \u202e thing"),
    "TEXT_NOT_NFC": _text("a cafe\u0301"),
    "TEXT_LINKS": _text("from https://example.org"),
    "TEXT_DIGITS": _text("17"),
    "TEXT_U2581": _text("a\u2581b"),
    "FORMAT_NOT_READ": lambda root: (root / "bad.heic").write_bytes(b"x"),
    "TABLE_NOT_READ": lambda root: (root / "bad.csv").write_text("x"),
    "SKIPPED_LINK": lambda root: os.symlink(root / "good00.png", root / "bad.png"),
}


@pytest.mark.parametrize("code", CASES)
def test_each_fault_is_found_and_placed(folder: Path, code: str) -> None:
    CASES[code](folder)
    findings = found(check(Folder(path=str(folder)), max_bad=0.5))
    extra = {"ANIMATED": {"PALETTE"}}.get(code, set())
    assert set(findings) == {code} | extra
    assert findings[code].number == (2 if code in ("DUPLICATE", "CAPTION_REPEATED") else 1)
    assert any("bad" in example for example in findings[code].examples) or code == "CAPTION_REPEATED"


def test_the_gravest_comes_first_and_stops(folder: Path) -> None:
    """5 % of the first 100 may fail, however few there are: five pictures, as encoding counts."""
    for number in range(6):
        assert check(Folder(path=str(folder))).usable
        (folder / f"bad{number}.jpg").write_bytes(b"")
        (folder / f"bad{number}.txt").write_text(f"text {number}")
    _small(folder)
    checkup = check(Folder(path=str(folder)))
    assert not checkup.usable
    order = [GRAVITIES.index(finding.gravity) for finding in checkup.findings]
    assert order == sorted(order)
    assert [finding.code for finding in checkup.findings] == ["TOO_MANY_BAD", "EMPTY_FILE", "SMALLER_THAN_SIZE"]


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_wrong_delimiter(folder: Path, sign: str) -> None:
    (folder / "metadata.csv").write_text(f"file_name{sign}text\ngood00.png{sign}a thing\n")
    findings = found(check(Folder(path=str(folder))))
    assert findings["CSV_DELIMITER"].gravity == "stops"
    assert "SOURCE_ERROR" not in findings
    assert check(Folder(path=str(folder))).looked_at == 12


def test_metadata_that_names_absent_files(folder: Path) -> None:
    lines = [{"file_name": name, "text": name} for name in ("x/good00.png", "none.png", "good01.png")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    findings = found(check(Folder(path=str(folder))))
    assert findings["METADATA_ABSENT"].number == 2
    assert findings["METADATA_ABSENT"].examples == ("metadata.jsonl:1: x/good00.png", "metadata.jsonl:2: none.png")
    assert "good00.png" in findings["METADATA_ABSENT"].fix
    assert findings["METADATA_MISSING"].number == 11
    assert findings["CAPTIONS_NOT_READ"].number == 12


def test_the_layout_of_img2dataset_in_files(tmp_path: Path) -> None:
    """Also with other numbers of digits than its defaults; pictures whose caption is in the .json alone have none."""
    for number in range(6):
        add(tmp_path, f"shard{number}", photo(number), f"thing {number}")
        for name in (f"{number // 3:05}/{number:08}", f"{number // 3:05}/{number:09}"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            add(tmp_path, name, photo(9 + number + 10 * len(name)), f"a thing {name}")
            (tmp_path / f"{name}.json").write_text(json.dumps({"caption": "a thing", "status": "success"}))
    for record in ("00000.parquet", "00000_stats.json", "00001.parquet"):
        (tmp_path / record).write_text("{}")
    assert found(check(Folder(path=str(tmp_path)))) == {}
    for text in tmp_path.glob("0*/*.txt"):
        text.unlink()
    findings = found(check(Folder(path=str(tmp_path))))
    assert findings["JSON_NOT_READ"].number == 12
    assert ".txt of the same name" in findings["JSON_NOT_READ"].fix
    assert "TABLE_NOT_READ" not in findings


def splits(root: Path, prefix: str = "") -> None:
    """A folder as Hugging Face's imagefolder has it, with two splits."""
    for split, first in (("train", 0), ("test", 10)):
        (root / split).mkdir()
        lines = [{"file_name": f"{prefix}{number}.png", "text": f"a thing {first + number}"} for number in range(5)]
        for number in range(5):
            photo(first + number).save(root / split / f"{number}.png")
        (root / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "dataset_infos.json").write_text("{}")


def test_splits_with_a_table_each(tmp_path: Path) -> None:
    splits(tmp_path)
    checkup = check(Folder(path=str(tmp_path)))
    assert (checkup.documents, checkup.findings) == (10, ())
    (tmp_path / "test" / "metadata.jsonl").unlink()
    elsewhere = found(check(Folder(path=str(tmp_path))))["METADATA_ELSEWHERE"]
    assert elsewhere.number == 5
    assert f"source.path={tmp_path / 'train'}" in elsewhere.fix
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "test/0.png", "text": "a thing"}) + "\n")
    findings = found(check(Folder(path=str(tmp_path))))
    assert findings["METADATA_BELOW"].examples == ("train/metadata.jsonl",)
    assert "TABLE_NOT_READ" not in findings


def test_tables_of_splits_with_paths_that_begin_elsewhere(tmp_path: Path) -> None:
    splits(tmp_path, "test/")
    assert found(check(Folder(path=str(tmp_path))))["METADATA_ABSENT"].fix == (
        "write paths from the folder of the table: 0.png, not test/0.png"
    )
    for picture in (tmp_path / "train").glob("*.png"):
        picture.rename(tmp_path / "test" / f"9{picture.name}")
    (tmp_path / "test" / "metadata.jsonl").unlink()
    assert "move train/metadata.jsonl to the folder" in found(check(Folder(path=str(tmp_path))))["METADATA_ABSENT"].fix


def picture(number: int = 0) -> ImageSegment:
    return ImageSegment(FileSpan(Path("none.png")), f"{number}")


def rows_of(documents: list[Document], **rules: Any) -> dict[str, Finding]:
    rows = Rows(RowRules(**{"length": 20, "image": 18, "truncate": False, **rules}))
    for document in documents:
        rows.add(document, document.source)
    return {finding.code: finding for finding in rows.findings()}


def test_documents_that_no_row_holds() -> None:
    pair = Document("pair", (TextSegment("a"), picture()))
    alone = Document("alone", (picture(),))
    text = Document("text", (TextSegment("a" * 1000),), fixed_order=True)
    story = Document("story", (TextSegment("a"), picture(), picture(1)), fixed_order=True)
    assert rows_of([alone, text]) == {}
    assert rows_of([pair], length=21) == {}
    assert rows_of([pair])["NOTHING_FITS"].fix.startswith("set pack.row_length to 21 or more")
    some = rows_of([pair, alone, story])["TOO_LONG"]
    assert (some.gravity, some.number, some.examples) == ("problem", 2, ("pair", "story"))
    assert rows_of([pair, story], truncate=True).keys() == {"TOO_LONG"}  # a story ends behind its first picture
    assert rows_of([story], truncate=True, length=19).keys() == {"NOTHING_FITS"}


def test_nothing_for_training() -> None:
    held = Document("held", (TextSegment("a"),), heldout=True)
    free = Document("free", (TextSegment("a"),), source="books")
    assert rows_of([held])["ALL_HELD_OUT"].number == 1
    assert rows_of([held, free]) == {}
    assert rows_of([held, free], weights={"weights": {"books": 0.0}}).keys() == {"NO_WEIGHT"}
    assert rows_of([held, free], weights={"weights": {"books": 0.0}, "late_weights": {"books": 1.0}}).keys() == {
        "NO_WEIGHT"
    }
    assert rows_of([free], weights={"weights": {"boks": 2.0}})["WEIGHT_UNKNOWN"].fix == "the sources are books"


def test_a_source_that_is_not_there_is_a_finding() -> None:
    checkup = check(Folder(path="nowhere"))
    assert not checkup.usable
    assert [finding.code for finding in checkup.findings] == ["SOURCE_ERROR"]
    assert "nowhere" in checkup.findings[0].what


def test_a_text_much_longer_than_the_others_and_text_alone(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text("word " * 20)
    (tmp_path / "novel.txt").write_text("word " * 9000)
    checkup = check(TextFiles(path=str(tmp_path)), corpus=True)
    assert checkup.usable
    assert found(checkup)["DOCUMENT_LONG"].examples == ("novel",)
    assert not check(TextFiles(path=str(tmp_path))).usable


def test_folders_inside_a_mix_are_looked_at(folder: Path) -> None:
    (folder / "bad.heic").write_bytes(b"x")
    assert "FORMAT_NOT_READ" in found(check(Mix(of={"photos": Folder(path=str(folder))})))


def test_a_stop_is_obeyed(folder: Path) -> None:
    interrupts = Interrupts()
    interrupts.signal_number = 2
    with pytest.raises(TfcliError) as caught:
        check_source(
            Folder(path=str(folder)),
            Images(),
            limits=Limits(0),
            latent_row_bytes=None,
            limit=3,
            runtime=Runtime(interrupts=interrupts, workers=0),
        )
    assert caught.value.code == ExitCode.INTERRUPTED


@pytest.mark.parametrize("number", [0, 1, 7, 10, 11, 20, 21, 22, 999])
def test_a_sample_is_spread_over_all(number: int) -> None:
    spread = Spread(10)
    for index in range(number):
        spread.add(Document(str(index), (TextSegment("x"),)))
    places = [int(document.key) for document in spread.items()]
    assert len(places) == min(number, 10)
    assert places == sorted(set(places))
    if number > 10:
        gaps = np.diff([*places, number])
        assert places[0] == 0
        assert gaps.max() <= 4 * number / 10


def test_near_twins_are_seen_through_size_and_format_alone() -> None:
    images = [photo(1), photo(1).resize((200, 140)), photo(2), photo(3)]
    from stages.doctor.pictures import SeenPicture

    seen = [
        SeenPicture(str(number), "PNG", image.size, (), str(number), "", "", (), small_copy(np.array(image)))
        for number, image in enumerate(images)
    ]
    assert [{one.name, other.name} for one, other in near_twins(seen)] == [{"0", "1"}]


def test_texts_in_every_script_are_not_suspected() -> None:
    persian, chinese = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u4e00\u53ea\u732b"
    for text in (persian, chinese, "two\n\tlines", "\U0001f469\u200d\U0001f680 in space", "a < b & c", "R\u00c3 road"):
        assert suspicions(text, True) == []


def test_shares() -> None:
    assert share_text(1, 1000) == "1 of 1,000 (less than 1 %)"
    assert share_text(0, 0) == "0 of 0 (0 %)"


def test_the_reader_is_guessed(folder: Path, tmp_path: Path) -> None:
    assert guess_source(str(folder)).source.kind == "folder"
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(tars / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x.txt"), io.BytesIO())
    assert guess_source(str(tars)).source.kind == "webdataset"
    assert guess_source(str(tars / "a.tar")).source.kind == "webdataset"
    (tmp_path / "pages.jsonl").write_text('{"id": "a", "parts": []}\n')
    (tmp_path / "list.jsonl").write_text('{"file_name": "a.png"}\n')
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    (tmp_path / "novel.txt").write_text("x")
    (tmp_path / "captions.csv").write_text("x")
    kinds = {
        "pages.jsonl": "jsonl",
        "list.jsonl": "folder",
        "t.parquet": "parquet",
        "novel.txt": "text",
        "captions.csv": "folder",
    }
    assert {name: guess_source(str(tmp_path / name)).source.kind for name in kinds} == kinds
    (tmp_path / "x.zip").write_bytes(b"PK")
    (tmp_path / "none").mkdir()
    for name in ("x.zip", "pictures/good00.png", "none"):
        with pytest.raises(TfcliError) as caught:
            guess_source(str(tmp_path / name))
        assert caught.value.code == ExitCode.INPUT
    with pytest.raises(TfcliError):
        guess_source("https://example.org/x.tar")


def test_a_text_without_its_picture_is_named(folder: Path) -> None:
    (folder / "good99.txt").write_text("whose picture is not there")
    (finding,) = [one for one in check(Folder(path=str(folder))).findings if one.code == "TEXT_ALONE"]
    assert (finding.number, finding.examples, finding.gravity) == (1, ("good99.txt",), "remark")


def test_a_smaller_size_is_proposed_only_where_it_is_smaller(folder: Path) -> None:
    _small(folder)
    fix = found(check(Folder(path=str(folder))))["SMALLER_THAN_SIZE"].fix
    assert fix == "take larger ones"
    for path in folder.glob("*.png"):
        Image.open(path).resize((20, 20)).save(path)
    assert "16 or less" in found(check(Folder(path=str(folder))))["SMALLER_THAN_SIZE"].fix


def test_bad_pictures_in_a_row_stop_a_run_by_the_window(tmp_path: Path) -> None:
    """A disk that fails late: 8 of 208 are fewer than 5 %, 8 of the last 100 are not."""
    for number in range(200):
        add(tmp_path, f"a{number:03}", photo(number), "a thing")
    for number in range(8):
        (tmp_path / f"b{number}.png").write_bytes(b"")
        (tmp_path / f"b{number}.txt").write_text("a thing")
    assert not check(Folder(path=str(tmp_path)), limit=1000, limits=Limits(0.05, 100)).usable
    assert check(Folder(path=str(tmp_path)), limit=1000, limits=Limits(0.05, 208)).usable
