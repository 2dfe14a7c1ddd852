"""Artifacts of older schemas: upgraded where each step has an upgrade, else refused; what is upgraded need not be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.artifacts import latents
from stages.artifacts.kinds import FORMS
from stages.artifacts.latents import Latents
from stages.artifacts.manifest import MAKERS, Stamp, read_manifest
from stages.artifacts.schema import Schema, schema_of
from stages.core.errors import ExitCode, TfcliError
from tests.builders import Story, edit_manifest, make_latents

NOW = schema_of("latents").version


def older(folder: Path) -> Latents:
    """Latents two schemas ago: with another name for `dtype` and without `picture_size`."""
    made = Latents.open(make_latents(folder, [Story((None,))]))

    def change(raw: dict[str, Any]) -> None:
        raw["schema_version"] = NOW - 2
        raw["content"]["number_format"] = raw["content"].pop("dtype")
        del raw["content"]["picture_size"]

    edit_manifest(folder, change)
    return made


def add_picture_size(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "picture_size": 16}


def rename_dtype(content: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: value for key, value in content.items() if key != "number_format"},
        "dtype": content["number_format"],
    }


def test_every_kind_has_a_schema() -> None:
    assert MAKERS.keys() == FORMS.keys()
    assert all(schema_of(kind).version >= 1 for kind in MAKERS)


def test_an_older_artifact_is_read_through_all_upgrades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = older(tmp_path / "latents")
    before = read_manifest(tmp_path / "latents")
    monkeypatch.setattr(latents, "SCHEMA", Schema(NOW, {NOW - 2: add_picture_size, NOW - 1: rename_dtype}))
    found = Latents.open(tmp_path / "latents")
    assert found.content == made.content.model_copy(update={"picture_size": 16})
    assert read_manifest(tmp_path / "latents") == before  # nothing on disk is rewritten


@pytest.mark.parametrize("missing", [NOW - 2, NOW - 1])
def test_an_older_artifact_without_one_of_the_upgrades_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    older(tmp_path / "latents")
    upgrades = {NOW - 2: add_picture_size, NOW - 1: rename_dtype}
    del upgrades[missing]
    monkeypatch.setattr(latents, "SCHEMA", Schema(NOW, upgrades))
    with pytest.raises(TfcliError, match="made by an older tfcli") as caught:
        Latents.open(tmp_path / "latents")
    assert caught.value.code == ExitCode.ARTIFACT
    assert caught.value.why == f"latents of schema {NOW - 2}, this tfcli reads {NOW}"


def test_what_is_upgraded_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of days is not stale because a field was added to the schema of checkpoints."""
    stamp = Stamp("checkpoint", "train", 1, 0, {"train": {"steps": 7}})
    facts, fingerprint = stamp.fingerprint_inputs(), stamp.fingerprint
    now = schema_of("checkpoint").version
    monkeypatch.setattr("stages.artifacts.checkpoint.SCHEMA", Schema(now + 1))
    assert not stamp.is_of(fingerprint, facts)
    assert stamp.changed(facts) == "schema"
    monkeypatch.setattr("stages.artifacts.checkpoint.SCHEMA", Schema(now + 1, {now: lambda content: content}))
    assert stamp.is_of(fingerprint, facts)
    assert stamp.changed(facts) == ""
    assert not stamp.is_of(fingerprint, {**facts, "seed": 1})
