"""Prompts as people write them: where pictures go, what a line is, which paths a file may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sample_model.config import MixedPrompt, PicturePart, PromptOptions, SampleConfig
from stages.sample_model.prompts import parse_prompts, prompt_of, read_prompts
from stages.sample_model.tasks import default_next


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "in/c.png"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def shown(prompt: str | MixedPrompt) -> list[str]:
    assert isinstance(prompt, MixedPrompt)
    return [f"[{part.image}]" if isinstance(part, PicturePart) else part.text for part in prompt.parts]


def test_pictures_come_first_or_where_the_marks_are(folder: Path) -> None:
    assert folder
    assert prompt_of("a <b> c", []) == "a <b> c"
    assert shown(prompt_of("what?", ["a.png", "b.png"])) == ["[a.png]", "[b.png]", "what?"]
    assert shown(prompt_of("from <image> to <image>: ", ["b.png", "a.png"])) == [
        "from ",
        "[b.png]",
        " to ",
        "[a.png]",
        ": ",
    ]
    assert shown(prompt_of("", ["a.png"])) == ["[a.png]"]
    assert shown(prompt_of("<image><image>", ["a.png", "b.png"])) == ["[a.png]", "[b.png]"]


@pytest.mark.parametrize("pictures", [["a.png"], ["a.png", "b.png", "a.png"], []])
def test_marks_and_pictures_must_be_as_many(folder: Path, pictures: list[str]) -> None:
    assert folder
    with pytest.raises(TfcliError, match=f"2 <image> and {len(pictures)} --image") as caught:
        prompt_of("<image> and <image>", pictures)
    assert caught.value.code == ExitCode.USAGE


def test_what_comes_next_where_it_is_not_said() -> None:
    assert default_next(has_text=True, has_picture=False) is True
    assert default_next(has_text=False, has_picture=True) is False
    assert default_next(has_text=True, has_picture=True) == "model"
    assert default_next(has_text=False, has_picture=False) == "model"


def test_a_line_is_a_prompt(folder: Path) -> None:
    (folder / "lines.txt").write_bytes("\ufeff one \r\n\n{two}\nthr\u00e9e".encode())
    assert read_prompts(folder / "lines.txt") == ["one", "{two}", "thr\u00e9e"]
    drawn = read_prompts(folder / "lines.txt", PromptOptions(draw=False))[0]
    assert isinstance(drawn, MixedPrompt)
    assert drawn.draw is False


def test_documents_name_pictures_beside_them_and_keep_their_own_wish(folder: Path) -> None:
    lines = (
        '{"id": "x", "parts": [{"image": "c.png"}, {"text": "why?"}], "draw": false}\n\n{"parts": [{"text": "a"}]}\n'
    )
    (folder / "in" / "many.jsonl").write_text(lines)
    first, second = read_prompts(folder / "in" / "many.jsonl", PromptOptions(draw="model"))
    assert isinstance(first, MixedPrompt)
    assert isinstance(second, MixedPrompt)
    assert shown(first) == [f"[{folder}/in/c.png]", "why?"]
    assert (first.draw, second.draw) == (False, "model")
    config = SampleConfig(prompts=(first, "text", second))
    assert config.pictures() == [f"{folder}/in/c.png"]


@pytest.mark.parametrize("path", ["../a.png", "/etc/passwd", "d.png", "out/a.png", "", "."])
def test_a_file_of_documents_reads_inside_its_folder_only(folder: Path, path: str) -> None:
    (folder / "in" / "out").symlink_to(folder)
    (folder / "in" / "bad.jsonl").write_text(f'\n{{"parts": [{{"image": "{path}"}}]}}')
    with pytest.raises(TfcliError, match=r"bad.jsonl:2: image") as caught:
        read_prompts(folder / "in" / "bad.jsonl")
    assert caught.value.code == ExitCode.USAGE


def test_stdin_holds_documents_if_it_begins_like_one(folder: Path) -> None:
    assert folder
    assert parse_prompts(b"a\nb {", Path("stdin")) == ["a", "b {"]
    for begin in (b"", b" \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n "):  # with a byte order mark too
        (document,) = parse_prompts(begin + b'{"parts": [{"image": "a.png"}]}', Path("stdin"))
        assert shown(document) == ["[a.png]"]
    assert parse_prompts(b"\xef\xbb\xbfa", Path("stdin")) == ["a"]
