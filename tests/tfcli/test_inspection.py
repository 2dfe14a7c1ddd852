"""inspect --images, --row and doctor from the command line: what is written, printed and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from stages.artifacts.latents import Latents
from stages.pack_sequences.config import PackConfig
from tests.builders import Story, make_all, make_autoencoder, make_latents
from tfcli.app import app

STORIES = [Story((f'a "thing" [red]{number}[/red] <eos>\x1b[31m', None), bad=number == 3) for number in range(8)]


def call(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """work/: latents, tokens, sequences; seen/: latents that can be decoded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    make_all(Path("work"), STORIES, PackConfig(row_length=96, patch_side=2, heldout_fraction=0.2))
    autoencoder = make_autoencoder(tmp_path / "seen" / "autoencoder")
    monkeypatch.setattr(Latents, "autoencoder_folder", lambda _self: autoencoder)
    make_latents(tmp_path / "seen" / "latents", STORIES, channels=4, side=8)
    return Path("work")


@pytest.mark.usefixtures("work")
def test_a_row_without_colour_is_told_by_marks() -> None:
    text = call("inspect", "work/sequences", "--row", "0").stdout
    assert "<bos>" in text
    assert "[image 2x2, 4 patches, row " in text
    assert '"a \\"thing\\" [red]' in text
    assert "<eos>\\x1b[31m" in text
    assert "\x1b" not in text
    one = json.loads(call("inspect", "work/sequences", "--row", "0", "--side", "heldout", "--json").stdout)
    assert (one["side"], one["row"], one["length"]) == ("heldout", 0, 96)
    assert sum(document["length"] for document in one["documents"]) + one["unused"] == 96


@pytest.mark.usefixtures("work")
def test_a_row_in_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = call("inspect", "work/sequences", "--row", "0").stdout
    assert "\x1b[1;32m<bos>" in text
    assert "\x1b[31m" not in text.replace("\x1b[1;31m", "")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in call("inspect", "work/sequences", "--row", "0").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["work/sequences", "--row", "99"], "train has the rows 0 to"),
        (["work/sequences", "--row", "0", "--side", "left"], "train or heldout"),
        (["work/sequences", "--row", "0", "--images"], "exclude each other"),
        (["work/latents", "--row", "0"], "only sequences have rows"),
        (["work", "--images"], "is a work folder"),
        (["work/tokens", "--images"], "holds no pictures"),
        (["work/latents", "--images", "--out", "work/latents/x.html"], "is inside an artifact"),
        (["work/latents", "--images", "--out", "none/x.html"], "no such folder"),
        (["work/latents", "--images", "--out", "x.gif"], "neither .html nor .png"),
        (["work/latents", "--out", "x.html"], "--out needs --images"),
    ],
)
def test_what_cannot_be_shown_is_refused(work: Path, args: list[str], said: str) -> None:
    result = call("inspect", *args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(work.rglob("x.html"))


@pytest.mark.usefixtures("work")
def test_images_as_a_page_and_as_a_sheet() -> None:
    result = call("inspect", "seen/latents", "--images")
    assert (result.exit_code, result.stdout) == (0, "seen-latents.html\n")
    page = Path("seen-latents.html").read_text("utf-8")
    assert page.count("<img") == 7
    assert "left out, see errors.jsonl" in page
    one = json.loads(call("inspect", "seen/latents", "--images", "--count", "2", "--out", "s.png", "--json").stdout)
    assert (one["path"], one["pictures"], len(one["documents"])) == ("s.png", 2, 2)
    with Image.open("s.png") as sheet:
        assert sheet.size == (2 * 160 + 3 * 8, 160 + 2 * 8)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("latents/documents/00000.jsonl", b"thing", b"thong"),
        ("latents/errors.jsonl", b"CORRUPT", b"CORRUPS"),
        ("tokens/tokenizer.model", b"thi", b"tho"),
    ],
)
def test_a_summary_shows_nothing_of_a_file_that_is_not_as_it_was_sealed(
    work: Path, name: str, old: bytes, new: bytes
) -> None:
    path = work / name
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    result = call("inspect", str(work / name.split("/")[0]))
    assert result.exit_code == 4
    assert f"{path} is damaged" in result.stderr
    assert new.decode() not in result.stdout


@pytest.mark.usefixtures("work")
def test_summaries_tell_what_the_files_hold() -> None:
    latents = call("inspect", "work/latents").stdout
    assert "left out, by reason" in latents
    assert "CORRUPT" in latents
    assert "[red]0[/red]" in latents
    tokens = call("inspect", "work/tokens").stdout
    assert "pieces of the vocabulary" in tokens
    digest = json.loads(call("inspect", "work/tokens", "--json").stdout)["digest"]
    assert digest not in tokens
    assert digest in call("inspect", "work/tokens", "--verbose").stdout


@pytest.mark.usefixtures("work", "pictures")
def test_inspect_of_rows_and_doctor_need_no_torch() -> None:
    root = Path(__file__).parents[2]
    shown = [["inspect", "work/latents"], ["inspect", "work/tokens"], ["inspect", "work/sequences", "--row", "0"]]
    for args in (*shown, ["doctor", "pictures", "--workers", "0", "-q"]):
        code = f"import sys; sys.path.insert(0, {str(root)!r}); sys.argv[1:] = {args!r}\n" + (
            "from tfcli.app import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "False"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 80, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"noise {number}")
    return folder


def doctor(*args: str) -> Result:
    return call("doctor", *args, "--workers", "0")


@pytest.mark.usefixtures("pictures")
def test_doctor_of_a_path_and_of_a_recipe() -> None:
    result = doctor("pictures")
    assert result.exit_code == 0
    assert "nothing to remark" in result.stdout
    assert "6 picture files in it" in result.stdout
    Path("mine.toml").write_text('[source]\nkind = "folder"\npath = "pictures"\n[images]\nsize = 128\n')
    result = doctor("mine.toml")
    assert result.exit_code == 0
    assert "smaller than images.size = 128" in result.stdout
    assert "remark" not in doctor("mine.toml", "--set", "images.size=64").stdout.replace("nothing to remark", "")
    told: Any = json.loads(doctor("mine.toml", "--json", "--limit", "2").stdout)
    assert (told["kind"], told["documents"], told["looked_at"], told["usable"]) == ("folder", 6, 2, True)
    assert told["findings"][0]["code"] == "SMALLER_THAN_SIZE"


@pytest.mark.usefixtures("pictures")
def test_doctor_reads_the_text_of_a_recipe() -> None:
    text = '[[tokenize.text]]\nkind = "text"\npath = "novel.txt"\nsplit = "line"\n'
    Path("mine.toml").write_text(f'[source]\nkind = "folder"\npath = "pictures"\n[images]\nsize = 32\n{text}')
    Path("novel.txt").write_bytes(b"once upon a time\nforged \xe2\x96\x81 space\nand then\n")
    result = doctor("mine.toml")
    assert result.exit_code == 0
    assert "TEXT_U2581" in result.stdout
    assert "NO_PICTURES" not in result.stdout
    told: Any = json.loads(doctor("mine.toml", "--json").stdout)
    assert [(one["path"], one["documents"], one["omitted"]) for one in told["corpora"]] == [("novel.txt", 2, 1)]
    Path("novel.txt").write_bytes(b"\xff\n")
    result = doctor("mine.toml")
    assert result.exit_code == 3
    assert "a run from novel.txt would stop" in result.stderr


def test_doctor_ends_with_3_where_a_run_would_stop(pictures: Path) -> None:
    (pictures / "metadata.csv").write_text("file_name;text\n[/b]\x1b[31m;x\n")
    result = doctor("pictures", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["findings"][0]["code"] == "CSV_DELIMITER"
    assert "semicolons" in result.stderr
    assert "fix: export it again" in result.stderr
    (pictures / "metadata.csv").write_text("file_name,text\n[/b]\x1b[31m,x\n")
    result = doctor("pictures")
    assert result.exit_code == 3
    assert "[/b]\\x1b[31m" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.usefixtures("pictures")
def test_doctor_of_nothing() -> None:
    assert doctor("nowhere").exit_code == 2
    assert doctor("pictures/p0.png").exit_code == 3
    assert doctor("pictures", "--set", "images.sise=3").exit_code == 2
