"""What evaluation measures of which documents, under which names, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.scores import JUDGED, MISTAKES, SCORES
from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.evaluate_model import stage
from stages.evaluate_model.config import EvalConfig
from stages.evaluate_model.judging import Evaluated, Judged, TaskScores
from stages.evaluate_model.stage import mistakes_of
from stages.generation.config import GenerationConfig
from tests.builders import stamp

PAIRS = {name: [f"{name}-{number}" for number in range(9)] for name in ("claim", "thing", None)}
STORIES, EDITS = [f"story-{number}" for number in range(9)], [f"edit-{number}" for number in range(9)]
GENERATION = GenerationConfig(temperature=0.0, guidance=1.5, max_images=2)
LIMITS = EvalConfig(
    text_to_image=5,
    image_to_text=4,
    unconditional=7,
    free=3,
    edits=2,
    stories=6,
    inpainted=8,
    generation=GENERATION,
    free_temperature=0.7,
)
SIDE = 48
RIGHT, WRONG = (np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Which judge was asked about which documents; the first document of each is right."""
    calls: list[tuple[str, Any]] = []

    def judge_of(name: str) -> Any:
        def judge(model: Evaluated, documents: Any, *rest: Any) -> TaskScores:
            expected = GENERATION.model_copy(
                update={"height": SIDE, "width": SIDE}
            )  # of the pictures that the judge knows
            if name == "free":  # greedy text would be one document many times
                expected = expected.model_copy(update={"temperature": 0.7})
            assert (model.generation, model.seed) == (expected, 11)
            keys = [f"{name}-{number}" for number in range(documents)] if isinstance(documents, int) else documents
            calls.append((name, [*keys, *rest]))
            rows = [
                Judged(name, key, "text", number == 0, WRONG if number else RIGHT) for number, key in enumerate(keys)
            ]
            return TaskScores({name: float(len(keys))}, rows)

        return judge

    names = ("drawings", "texts", "relations", "unconditional", "free", "inpainted", "continued", "turned", "swapped")
    for name in (*names, "edits"):
        monkeypatch.setattr(stage, f"judge_{name}", judge_of(name))
    monkeypatch.setattr(stage, "shapes_pairs", lambda _loaded, new: PAIRS[new])
    monkeypatch.setattr(stage, "with_relation", lambda pairs: pairs[::2])
    monkeypatch.setattr(stage, "with_thing_at_right", lambda pairs: pairs[1::2])
    monkeypatch.setattr(stage, "most_things", lambda pairs: len(pairs))
    monkeypatch.setattr(stage, "shapes_stories", lambda _loaded: STORIES)
    monkeypatch.setattr(stage, "shapes_edits", lambda _loaded: EDITS)
    losses = {"heldout_text_loss": 1.5, "heldout_image_loss": 0.25, "text_loss": 9.0}
    content = SimpleNamespace(picture_size=SIDE)
    checkpoint = SimpleNamespace(manifest=SimpleNamespace(stats={"losses": losses}), content=content)
    loaded = SimpleNamespace(checkpoint=checkpoint)
    monkeypatch.setattr(stage, "load_model", lambda *_: loaded)
    monkeypatch.setattr(stage, "generator_count", lambda *_: 1)
    return calls


def evaluated(folder: Path, limits: EvalConfig = LIMITS) -> dict[str, Any]:
    with building(folder, stamp("scores", "eval"), Runtime()) as build:
        stage.run(eval=limits, checkpoint=Path("x"), context=StageContext(build, Runtime(), 11))
    found: dict[str, Any] = json.loads((folder / SCORES).read_bytes())
    return found


def test_each_judge_gets_its_documents_and_each_figure_its_name(tmp_path: Path, asked: list[tuple[str, Any]]) -> None:
    """New claims, new things and what is like training are apart."""
    scores = evaluated(tmp_path / "scores")
    claims, things, alike = PAIRS["claim"], PAIRS["thing"], PAIRS[None]
    sides = [(part, pairs) for pairs in (claims, things, alike) for part in ("drawings", "texts", "relations")]
    limit = {"drawings": slice(5), "texts": slice(4), "relations": slice(0, 7, 2)}
    assert asked == [
        *((part, pairs[limit[part]]) for part, pairs in sides),
        ("unconditional", [*(f"unconditional-{number}" for number in range(7)), 18]),
        ("free", ["free-0", "free-1", "free-2"]),
        ("inpainted", [*claims, *alike][1::2][:8]),
        ("continued", STORIES[:6]),
        ("turned", STORIES[:6]),
        ("swapped", STORIES[:6]),
        ("edits", EDITS[:2]),
    ]
    counts = {"drawings": 5.0, "texts": 4.0, "relations": 4.0}
    assert scores == {
        "heldout_text_loss": 1.5,
        "heldout_image_loss": 0.25,
        **{f"{side}{name}": count for side in ("", "new_things_", "alike_") for name, count in counts.items()},
        "unconditional": 7.0,
        "free": 3.0,
        "inpainted": 8.0,
        "continued": 6.0,
        "turned": 6.0,
        "swapped": 6.0,
        "edits": 2.0,
    }


def test_nothing_is_generated_that_is_not_asked_for(tmp_path: Path, asked: list[tuple[str, Any]]) -> None:
    none = ("text_to_image", "image_to_text", "unconditional", "free", "edits", "stories", "inpainted")
    scores = evaluated(tmp_path / "scores", LIMITS.model_copy(update=dict.fromkeys(none, 0)))
    assert asked == []
    assert scores == {"heldout_text_loss": 1.5, "heldout_image_loss": 0.25}


def test_what_was_judged_is_written_down(
    tmp_path: Path, asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verdict but those of new things and of what is like training; and a sheet of what is wrong alone."""
    sheets: list[Any] = []
    real = stage.encode_png
    monkeypatch.setattr(stage, "encode_png", lambda sheet: (sheets.append(sheet), real(sheet))[1])
    evaluated(tmp_path / "scores")
    rows = list(read_jsonl(tmp_path / "scores" / JUDGED))
    keys = [
        (name, key, number == 0) for name, found in asked for number, key in enumerate(found) if isinstance(key, str)
    ]
    expected = [each for each in keys if each[0] == "inpainted" or not each[1].startswith(("thing-", "None-"))]
    assert [(row["mode"], row["key"], row["right"]) for row in rows] == expected
    assert (tmp_path / "scores" / MISTAKES).is_file()
    (sheet,) = sheets
    assert (sheet == WRONG[0, 0]).all(-1).any()
    assert not (sheet == RIGHT[0, 0]).all(-1).any()


def test_the_sheet_has_mistakes_of_every_mode() -> None:
    many = [Judged("one", f"one-{number}", "", False, WRONG) for number in range(200)]
    few = [Judged("two", "two-0", "", True, RIGHT), Judged("two", "two-1", "", False, WRONG)]
    chosen = mistakes_of([*many, *few, Judged("three", "three-0", "", False, None)])
    assert [one.key for one in chosen] == [*(f"one-{number}" for number in range(59)), "two-1"]
