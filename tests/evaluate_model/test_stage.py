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
from stages.evaluate_model.judged import Judged, TaskScores
from tests.builders import stamp

DOCUMENTS = {"scene": [f"scene-{number}" for number in range(9)], "thing": [f"thing-{number}" for number in range(9)]}
STORIES, EDITS = [f"story-{number}" for number in range(9)], [f"edit-{number}" for number in range(9)]
LIMITS = EvalConfig(text_to_image=5, image_to_text=4, free=3, edits=2, stories=6, inpainted=1)
SIDE = 48
RIGHT, WRONG = (np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Which judge was asked about which documents; the first document of each is right."""
    calls: list[tuple[str, Any]] = []

    def judge_of(name: str) -> Any:
        def judge(_loaded: Any, documents: Any, *rest: Any) -> TaskScores:
            generation = documents.generation if name == "free" else rest[0]
            assert (generation.height, generation.width) == (SIDE, SIDE)  # of the pictures that the judge knows
            keys = [f"free-{number}" for number in range(documents.free)] if name == "free" else documents
            calls.append((name, list(keys)))
            rows = [
                Judged(name, key, "text", number == 0, WRONG if number else RIGHT) for number, key in enumerate(keys)
            ]
            return TaskScores({name: float(len(keys))}, rows)

        return judge

    for name in ("drawings", "texts", "free", "inpainted", "continued", "turned", "edits"):
        monkeypatch.setattr(stage, f"judge_{name}", judge_of(name))
    monkeypatch.setattr(stage, "shapes_pairs", lambda _loaded, new: DOCUMENTS[new])
    monkeypatch.setattr(stage, "with_thing_at_right", lambda pairs: pairs[1::2])
    monkeypatch.setattr(stage, "shapes_stories", lambda _loaded: STORIES)
    monkeypatch.setattr(stage, "shapes_edits", lambda _loaded: EDITS)
    losses = {"heldout_text_loss": 1.5, "heldout_image_loss": 0.25, "text_loss": 9.0}
    content = SimpleNamespace(picture_size=SIDE)
    checkpoint = SimpleNamespace(manifest=SimpleNamespace(stats={"losses": losses}), content=content)
    loaded = SimpleNamespace(checkpoint=checkpoint)
    monkeypatch.setattr(stage, "load_model", lambda *_: loaded)
    return calls


def evaluated(folder: Path) -> dict[str, Any]:
    with building(folder, stamp("scores", "eval"), Runtime()) as build:
        stage.run(eval=LIMITS, checkpoint=Path("x"), context=StageContext(build, Runtime(), 0))
    found: dict[str, Any] = json.loads((folder / SCORES).read_bytes())
    return found


def test_each_judge_gets_its_documents_and_each_figure_its_name(tmp_path: Path, asked: list[tuple[str, Any]]) -> None:
    """Scenes that are new and things that are new are apart: the captions of training say of the second that there are none."""
    scores = evaluated(tmp_path / "scores")
    scenes, things = DOCUMENTS["scene"], DOCUMENTS["thing"]
    assert asked == [
        ("drawings", scenes[:5]),
        ("texts", scenes[:4]),
        ("free", ["free-0", "free-1", "free-2"]),
        ("drawings", things[:4]),
        ("texts", things[:4]),
        ("inpainted", scenes[1:2]),
        ("continued", STORIES[:6]),
        ("turned", STORIES[:6]),
        ("edits", EDITS[:2]),
    ]
    assert scores == {
        "heldout_text_loss": 1.5,
        "heldout_image_loss": 0.25,
        "drawings": 5.0,
        "texts": 4.0,
        "free": 3.0,
        "new_things_drawings": 4.0,
        "new_things_texts": 4.0,
        "inpainted": 1.0,
        "continued": 6.0,
        "turned": 6.0,
        "edits": 2.0,
    }


def test_what_was_judged_is_written_down(
    tmp_path: Path, asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verdict but those on new things; and a sheet of what is wrong alone."""
    sheets: list[Any] = []
    real = stage.encode_png
    monkeypatch.setattr(stage, "encode_png", lambda sheet: (sheets.append(sheet), real(sheet))[1])
    evaluated(tmp_path / "scores")
    rows = list(read_jsonl(tmp_path / "scores" / JUDGED))
    expected = [(name, key, number == 0) for name, keys in asked for number, key in enumerate(keys)]
    expected = [each for each in expected if not each[1].startswith("thing-")]
    assert [(row["mode"], row["key"], row["right"]) for row in rows] == expected
    assert (tmp_path / "scores" / MISTAKES).is_file()
    (sheet,) = sheets
    assert (sheet == WRONG[0, 0]).all(-1).any()
    assert not (sheet == RIGHT[0, 0]).all(-1).any()
