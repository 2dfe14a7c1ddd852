"""Settings that change no healthy training may change while it is stopped, also where an older tfcli counted them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.manifest import Manifest
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import write_record
from stages.core.hashing import hash_value
from stages.core.runtime import Runtime
from stages.pipeline import BY_NAME, Workspace
from stages.recipe import load_recipe
from stages.train_model import stage
from tests.builders import Story, edit_manifest, make_all
from tests.train_model.test_finetune import PACK

TRAIN = BY_NAME["train"]
SMALL = (
    "model.width=32",
    "model.layers=1",
    "model.heads=2",
    "train.steps=4",
    "train.batch_rows=1",
    "train.eval_rows=1",
)
EVERY = ("train.preview_every=0", "train.eval_every=2", "train.save_every=100", "train.warmup_steps=1")
SKIP = ('train.on_nonfinite="skip"', "train.skip_limit=3")
COUNTED = {"on_nonfinite": "stop", "skip_limit": 8}  # as manifests and plans of older tfclis have them


def train(work: Path, *settings: str) -> Manifest:
    workspace = Workspace(load_recipe("smoke", (*SMALL, *EVERY, *settings)), work)
    made = workspace.run(TRAIN, Runtime())[1]
    assert made is not None
    return made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    make_all(tmp_path, [Story((f"thing {n}", None)) for n in range(12)], PACK)
    return tmp_path


def with_older_settings(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "config": {**facts["config"], "train": {**facts["config"]["train"], **COUNTED}}}


def stopped(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = stage.heldout_losses
    with monkeypatch.context() as patch:
        patch.setattr(
            stage,
            "heldout_losses",
            lambda state, *rest: (measured(state, *rest)[0], [0] if state.step == 2 else []),
        )
        with pytest.raises(TfcliError, match=r"not finite at step 2") as caught:
            train(work)
    assert caught.value.code == ExitCode.DIVERGED


@pytest.mark.parametrize("older", [False, True])
def test_a_stopped_training_resumes_with_skip(work: Path, monkeypatch: pytest.MonkeyPatch, older: bool) -> None:
    stopped(work, monkeypatch)
    plan = work / "checkpoint.partial" / "plan.json"
    if older:
        raw = json.loads(plan.read_bytes())
        facts = with_older_settings(raw["facts"])
        write_record(plan, {"fingerprint": hash_value(facts), "facts": facts, "take_over": raw["take_over"]})
    with pytest.raises(TfcliError, match="started with other settings") as caught:
        train(work, *SKIP, "train.learning_rate=1e-5")
    assert "train.learning_rate changed;" in caught.value.why
    seen: list[int] = []
    loaded = stage.load_state
    monkeypatch.setattr(stage, "load_state", lambda folder, state: (loaded(folder, state), seen.append(state.step)))
    made = train(work, *SKIP)
    assert seen == [2]
    assert "on_nonfinite" not in made.config["train"]


def test_a_checkpoint_of_an_older_tfcli_stays_fresh(work: Path) -> None:
    train(work)
    for counted in (COUNTED, {"on_nonfinite": "skip", "skip_limit": 3}):

        def older(raw: dict[str, Any], counted: dict[str, Any] = counted) -> None:
            raw["config"]["train"] |= counted
            names = ("kind", "schema_version", "stage", "stage_version", "seed", "config", "outside")
            inputs = {name: entry["digest"] for name, entry in raw["inputs"].items()}
            raw["fingerprint"] = hash_value({**{name: raw[name] for name in names}, "inputs": inputs})

        edit_manifest(work / "checkpoint", older)
        for settings in ((), SKIP):
            workspace = Workspace(load_recipe("smoke", (*SMALL, *EVERY, *settings)), work)
            assert workspace.status(TRAIN).state == "fresh"
    changed = Workspace(load_recipe("smoke", (*SMALL, *EVERY, "train.batch_rows=2")), work)
    assert changed.status(TRAIN).reason == "train.batch_rows changed"
