"""What the doctor finds: each fault that it knows, planted once, is named; a clean source has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from stages.coders.config import Images
from stages.core.errors import ExitCode, TfcliError
from stages.inspection.checkup import Checkup, examine
from stages.inspection.guess import guess_source
from stages.sources.folder import Folder
from tfcli.app import app


def picture(folder: Path, name: str, text: str | None, size: tuple[int, int] = (80, 80), seed: int = 0) -> Path:
    rough = np.random.default_rng([seed, *name.encode()]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path = folder / name
    Image.fromarray(rough).resize(size).save(path)
    if text is not None:
        path.with_suffix(".txt").write_text(text)
    return path


def clean(folder: Path) -> None:
    for number in range(20):
        picture(folder, f"p{number:02}.png", f"a thing, number {number}")


def found(folder: Path) -> dict[str, tuple[str, ...]]:
    result = examine(Folder(path=str(folder), missing_caption="empty"), Images(size=64), 500)
    return {finding.what: finding.examples for finding in result.findings}


def test_a_clean_source_has_no_findings(tmp_path: Path) -> None:
    clean(tmp_path)
    assert found(tmp_path) == {}


def plant_copy(folder: Path) -> str:
    (folder / "q.png").write_bytes((folder / "p03.png").read_bytes())
    (folder / "q.txt").write_text("another")
    return "q.png = p03.png"


def plant_near_copy(folder: Path) -> str:
    image = Image.open(folder / "p03.png")
    image.resize((90, 90)).save(folder / "q.jpg", quality=80)
    (folder / "q.txt").write_text("another")
    return "q.jpg ~ p03.png"


def plant_same_text(folder: Path) -> str:
    for number in range(8):
        (folder / f"p{number:02}.txt").write_text("photo")
    return "p00.png"


def plant_html(folder: Path) -> str:
    (folder / "p05.txt").write_text("see <b>this</b> &amp; that")
    return "p05.png"


def plant_name(folder: Path) -> str:
    (folder / "p05.txt").write_text("IMG_2034.JPG")
    return "p05.png"


def plant_decomposed(folder: Path) -> str:
    (folder / "p05.txt").write_text("cafe\u0301", encoding="utf-8")
    return "p05.png"


def plant_control(folder: Path) -> str:
    (folder / "p05.txt").write_text("a\x07bell")
    return "p05.png"


def plant_long(folder: Path) -> str:
    (folder / "p05.txt").write_text("word " * 500)
    return "p05.png"


def plant_small(folder: Path) -> str:
    picture(folder, "q.png", "small", (40, 30))
    return "q.png (40x30)"


def plant_wide(folder: Path) -> str:
    picture(folder, "q.png", "wide", (300, 100))
    return "q.png (300x100)"


def plant_bare(folder: Path) -> str:
    picture(folder, "q.png", None)
    return "q.png"


def plant_cut(folder: Path) -> str:
    path = picture(folder, "q.png", "cut")
    path.write_bytes(path.read_bytes()[:200])
    return "q.png (image file is truncated"


def plant_palette(folder: Path) -> str:
    Image.open(folder / "p03.png").transpose(Image.Transpose.ROTATE_90).convert("P").save(folder / "q.png")
    (folder / "q.txt").write_text("turned")
    return "q.png"


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (plant_copy, "the same bytes twice"),
        (plant_near_copy, "looks like another picture"),
        (plant_same_text, "has a text that others have too"),
        (plant_html, "has a text with HTML in it"),
        (plant_name, "has a text that looks like a file name"),
        (plant_decomposed, "has characters that are composed otherwise (not NFC)"),
        (plant_control, "has control characters in its text"),
        (plant_long, "has a very long text"),
        (plant_small, "smaller than images.size"),
        (plant_wide, "loses more than half by the square crop"),
        (plant_bare, "has no text"),
        (plant_cut, "cannot be decoded: TRUNCATED"),
        (plant_palette, "has transparent pixels or a palette"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_planted_is_found_and_nothing_else(tmp_path: Path, plant, what: str) -> None:  # type: ignore[no-untyped-def]
    clean(tmp_path)
    example = plant(tmp_path)
    findings = found(tmp_path)
    assert list(findings) == [what]
    assert findings[what][0].startswith(example)


def test_documents_are_spread_over_the_source(tmp_path: Path) -> None:
    clean(tmp_path)
    result = examine(Folder(path=str(tmp_path)), Images(size=64), 7)
    assert (result.documents, result.looked_at, result.decoded) == (20, 7, 7)
    (tmp_path / "p18.txt").unlink()  # what the source leaves out is counted wherever it lies
    result = examine(Folder(path=str(tmp_path)), Images(size=64), 7)
    assert [finding.what for finding in result.findings] == ["left out by the source: CAPTION_MISSING: no caption"]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>")
    (tmp_path / "a.txt").write_text("x")
    result: Checkup = examine(Folder(path=str(tmp_path)), Images(size=64), 10)
    assert not result.usable
    assert result.findings[0].what == "no picture can be decoded"
    done = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert done.exit_code == 3
    assert "error: no picture can be decoded" in done.output


@pytest.mark.parametrize(
    ("names", "kind", "why"),
    [
        (["a.png", "a.txt"], "folder", "1 pictures"),
        (["a.tar", "b.tar", "c.txt"], "webdataset", "2 tars"),
        (["a.parquet"], "parquet", "1 tables"),
        (["a.txt", "b.txt"], "text", "2 .txt"),
    ],
)
def test_the_reader_is_guessed_from_what_lies_there(tmp_path: Path, names: list[str], kind: str, why: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    source, reason = guess_source(str(tmp_path))
    assert source.kind == kind
    assert why in reason
    for name in names:
        if not name.endswith((".png", "c.txt")) and kind != "folder":
            assert guess_source(str(tmp_path / name))[0].kind == kind


def test_lines_of_documents_and_of_captions_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "pages.jsonl").write_text('{"id": "a", "parts": []}\n')
    assert guess_source(str(tmp_path / "pages.jsonl"))[0].kind == "jsonl"
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n')
    assert guess_source(str(tmp_path / "metadata.jsonl"))[0].kind == "folder"
    (tmp_path / "rows.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n')
    for path in ("rows.jsonl", "nothing"):
        with pytest.raises(TfcliError) as caught:
            guess_source(str(tmp_path / path))
        assert caught.value.code == ExitCode.USAGE


def test_the_command_says_it_for_people_and_for_programs(tmp_path: Path) -> None:
    clean(tmp_path)
    plant_html(tmp_path)
    (tmp_path / "p06.txt").write_text("[/bold] <i>x</i> \x1b[31m")
    shown = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "2 x has a text with HTML in it" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "the source can be used" in shown.stdout
    data = json.loads(CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"]).stdout)
    assert (data["documents"], data["decoded"], data["usable"]) == (20, 20, True)
    assert data["reader"].startswith("folder: 20 pictures")
    assert CliRunner().invoke(app, ["doctor", str(tmp_path / "none")]).exit_code == 2


def test_a_wrong_delimiter_is_said_as_encode_would(tmp_path: Path) -> None:
    clean(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name;text\np00.png;x\n")
    done = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert done.exit_code == 3
    assert "the columns found are: file_name;text" in done.output
