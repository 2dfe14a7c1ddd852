"""max_bad counts whatever is left out of the source, names the reason that dominates and what helps against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import Omission
from stages.sources.failures import Failures
from tests.bad_inputs.lab import Lab, Shelf


def omissions(count: int, reason: str = "CAPTION_MISSING") -> list[Omission]:
    return [Omission(f"k{number}", f"{number}.png", reason, "no caption") for number in range(count)]


@pytest.mark.parametrize(
    ("reason", "fix"), [("CAPTION_MISSING", "missing_caption"), ("SKIPPED_LINK", "follow_links"), ("X", "correct")]
)
def test_all_that_is_left_out_counts(reason: str, fix: str) -> None:
    failures = Failures(0.05, 1000)
    failures.lists(94, omissions(5, reason))
    with pytest.raises(TfcliError, match="6 of the first 100 samples") as caught:
        failures.lists(0, omissions(1, reason))
    assert f"mostly {reason} (6)" in caught.value.why
    assert fix in caught.value.fix
    assert caught.value.code == ExitCode.INPUT


def test_the_example_is_one_of_the_reason_that_is_named() -> None:
    failures = Failures(0.05, 1000)
    failures.lists(94, omissions(4))
    failures.saw(0, [{"path": "a.png", "reason": "CORRUPT", "message": "m"}])
    with pytest.raises(TfcliError) as caught:
        failures.saw(0, [{"path": "b.png", "reason": "EMPTY_FILE", "message": "the file has no bytes"}])
    assert caught.value.why == "mostly CAPTION_MISSING (4), e.g. 3.png: no caption"


@pytest.mark.parametrize("reason", ["IGNORED_MEMBERS", "SKIPPED_SPECIAL", "TAR_TRUNCATED"])
def test_what_never_was_a_sample_does_not(reason: str) -> None:
    Failures(0, 1000).lists(10, omissions(50, reason))


def test_a_share_below_the_limit_goes_through_and_pictures_add_to_it() -> None:
    failures = Failures(0.05, 1000)
    failures.lists(960, omissions(40))  # listed before the pictures are read: these are not taken for 40 of 40
    failures.saw(0, [{"path": "a", "reason": "CORRUPT", "message": "m"}] * 5)
    failures.saw(900, [])
    failures.saw(0, [{"path": "a", "reason": "CORRUPT", "message": "m"}] * 5)
    with pytest.raises(TfcliError, match="51 of the first 1000 samples") as caught:
        failures.saw(0, [{"path": "a", "reason": "CORRUPT", "message": "m"}])
    assert "mostly CAPTION_MISSING (40)" in caught.value.why


@pytest.mark.parametrize("caption", [None, b"\xff\xfe broken"])
def test_a_folder_of_which_most_captions_cannot_be_used_is_refused(
    tmp_path: Path, shelf: Shelf, caption: bytes | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(tmp_path / "lab", shelf, patch)
        for number in range(29):
            lab.add(f"more{number}.png", lab.shelf.pictures[0], caption)
        outcome = lab.run("encode")
        assert outcome.code == 3, outcome.stderr
        assert "29 of the first 3" in outcome.lines[0]
        assert "CAPTION_MISSING (2" in outcome.lines[1] or "TEXT_NOT_UTF8 (2" in outcome.lines[1]
        assert lab.run("encode", "--set", "encode.max_bad=1").code == 0
