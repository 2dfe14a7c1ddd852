"""What is read of a sealed artifact is what was sealed: bytes against the manifest's sums, and content against the rules."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.artifacts.arrays import write_flat
from stages.artifacts.autoencoder import Autoencoder, weights_at
from stages.artifacts.checked import CheckedFiles
from stages.artifacts.latents import Latents
from stages.artifacts.manifest import FileEntry, InputEntry, digest_of
from stages.artifacts.sequences import RowTable, Sequences
from stages.artifacts.tokens import Tokens, tokenizer_at
from stages.core.errors import ExitCode, TfcliError
from stages.pack_sequences import stage
from stages.pack_sequences.config import PackConfig
from tests.builders import Story, edit_manifest, make_all, make_autoencoder, make_latents

STORIES = [Story((f"a caption of number {number}", None)) for number in range(130)]
CONFIG = PackConfig(row_length=64, heldout_fraction=0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("checked")
    make_all(work, STORIES, CONFIG)
    make_autoencoder(work / "autoencoder")
    return work


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work"


def refused(read: Callable[[], object], what: str) -> None:
    with pytest.raises(TfcliError, match=what) as caught:
        read()
    assert caught.value.code == ExitCode.ARTIFACT


def shard(latents: Path, number: int) -> Path:
    return latents / "arrays" / "4x4" / "c" / str(number) / "0" / "0" / "0" / "0"


def test_two_swapped_shards_are_refused_though_each_has_right_sums_inside(work: Path) -> None:
    """The builder's first two shards are full, and so of one size."""
    first, second = shard(work / "latents", 0), shard(work / "latents", 1)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    reader = Latents.open(work / "latents").rows()
    refused(lambda: reader.read(np.array([3])), r"c/0/0/0/0/0 is damaged")
    copy = pickle.loads(pickle.dumps(reader))
    refused(lambda: copy.read(np.array([70])), r"c/1/0/0/0/0 is damaged")
    assert copy.read(np.array([129])).shape == (1, 2, 2, 4, 4)  # the third is as it was


def test_latents_that_are_made_again_after_they_were_opened_are_not_read_as_the_old_ones(work: Path) -> None:
    latents = Latents.open(work / "latents")
    reader = latents.rows()
    before = reader.read(np.array([0, 1]))
    shutil.rmtree(work / "latents")
    make_latents(work / "latents", [Story((None, "the other way")), *STORIES[1:]])
    other = shard(work / "latents", 1)
    other.write_bytes(shard(work / "latents", 0).read_bytes())  # rows of another encoding
    assert np.array_equal(reader.read(np.array([0, 1])), before)  # it holds what it opened
    refused(lambda: reader.read(np.array([64])), "c/1/0/0/0/0 is damaged")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("latents/documents/00000.jsonl", lambda work: list(Latents.open(work / "latents").documents())),
        ("tokens/arrays/ids/c/0", lambda work: Tokens.open(work / "tokens").array("ids")),
        ("tokens/tokenizer.model", lambda work: Tokens.open(work / "tokens").text_coder()),
        ("tokens/tokenizer.model", lambda work: tokenizer_at(work / "tokens")),
        ("sequences/train/ids/c/0/0", lambda work: Sequences.open(work / "sequences").split("train")),
        (
            "sequences/heldout_documents.jsonl",
            lambda work: list(Sequences.open(work / "sequences").heldout_documents()),
        ),
        (
            "autoencoder/model/diffusion_pytorch_model.safetensors",
            lambda work: Autoencoder.open(work / "autoencoder").model_folder,
        ),
        ("autoencoder/model/config.json", lambda work: weights_at(str(work / "autoencoder"))),
    ],
)
def test_a_changed_byte_is_seen_by_who_reads_it(work: Path, name: str, read: Callable[[Path], Any]) -> None:
    read(work)
    data = bytearray((work / name).read_bytes())
    place = next(place for place in range(len(data) // 2, len(data)) if 48 < data[place] < 57)
    data[place] ^= 1  # a digit becomes another: JSON stays JSON
    (work / name).write_bytes(bytes(data))
    refused(lambda: read(work), "is damaged")


def id_out_of_range(table: RowTable) -> None:
    table.ids[1, 5] = 10**6


def no_boi(table: RowTable) -> None:
    table.ids[table.images[3, 0], table.images[3, 1] - 1] = 20


def no_length(table: RowTable) -> None:
    table.documents[4, 2] = 0


def no_latents(table: RowTable) -> None:
    table.images[2, 3] = 130


def no_grid(table: RowTable) -> None:
    table.images[2, 4] = 7


def no_owner(table: RowTable) -> None:
    table.images[2, 5] = 10**9


def before_the_row(table: RowTable) -> None:
    table.documents[0, 1] = -(2**63)


def other_entries(table: RowTable) -> None:
    table.row_images[1] += 1


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (id_out_of_range, "an id is out of range"),
        (no_boi, "without BOI"),
        (no_length, "no elements"),
        (no_latents, "no row of latents"),
        (no_grid, "no grid"),
        (no_owner, "no document"),
        (before_the_row, "crosses the end"),
        (other_entries, "not where the table says"),
    ],
)
@pytest.mark.parametrize("side", ["train"])
def test_rows_with_right_sums_and_wrong_content_are_refused_by_row(
    work: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[RowTable], None], what: str, side: Any
) -> None:
    """Sealed by a packing whose own check is replaced by the damage."""
    seen: list[RowTable] = []

    def instead(table: RowTable, *_: object) -> None:
        if not seen:
            damage(table)
        seen.append(table)

    monkeypatch.setattr(stage, "check_rows", instead)
    monkeypatch.setattr(stage, "channel_statistics", lambda *_: ([0.0] * 2, [1.0] * 2))  # it reads what rows refer to
    folder = make_all(work / "other", STORIES, CONFIG)
    with pytest.raises(TfcliError) as caught:
        Sequences.open(folder).split(side)
    assert caught.value.code == ExitCode.ARTIFACT
    assert what in str(caught.value.why)
    assert damage is other_entries or ", row " in caught.value.what
    Sequences.open(folder).split("heldout")


@pytest.mark.parametrize(
    ("name", "place", "value", "what"),
    [
        ("ids", 5, 10**6, "entry 5: id out of range"),
        ("segments", (1, 0), 3, "entry 1: segment"),
        ("segments", (0, 2), 10**9, "entry 0: segment"),
        ("offsets", 3, 0, "do not rise"),
        ("flags", 2, 9, "entry 2: unknown flag"),
        ("sources", 2, 9, "entry 2: unknown source"),
    ],
)
def test_arrays_of_tokens_with_wrong_content_are_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: Any, value: int, what: str
) -> None:
    tokens = Tokens.open(work / "tokens")
    values = np.array(tokens.array(name))
    values[place] = value
    write_flat(work / "tokens" / "arrays" / name, values)
    monkeypatch.setattr("stages.artifacts.checked.CheckedFiles._compare", lambda *_: None)  # as if sealed so
    with pytest.raises(TfcliError) as caught:
        tokens.array(name)
    assert caught.value.code == ExitCode.ARTIFACT
    assert what in str(caught.value.why)


def list_again(folder: Path, name: str) -> None:
    """The manifest says how long the file is now."""

    def change(manifest: dict[str, Any]) -> None:
        for entry in manifest["files"]:
            if entry["path"] == name:
                entry["bytes"] = (folder / name).stat().st_size
        files = [FileEntry.model_validate(entry) for entry in manifest["files"]]
        inputs = {key: InputEntry.model_validate(entry) for key, entry in manifest["inputs"].items()}
        manifest["digest"] = digest_of(files, manifest["content"], inputs)

    edit_manifest(folder, change)


@pytest.mark.parametrize("field", ["key", "group", "fixed_order", "heldout", "source", "segments", "image", "name"])
@pytest.mark.parametrize("value", [[], {}, 1.5, "missing"], ids=str)
def test_a_document_with_a_field_of_another_type_is_refused(
    work: Path, field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it made its sums again."""
    if value == "missing" or (field, value) == ("segments", []):
        value = None if field != "group" else 3
    path = work / "latents" / "documents" / "00000.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    holder = rows[0] if field in rows[0] else next(part for part in rows[0]["segments"] if "image" in part)
    holder[field] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    list_again(work / "latents", "documents/00000.jsonl")
    monkeypatch.setattr(CheckedFiles, "_compare", lambda *_: None)
    refused(lambda: list(Latents.open(work / "latents").documents()), r"00000.jsonl:1 is damaged")


@pytest.mark.parametrize("row", [[1], {"document": True}, {"document": "1"}, {}], ids=str)
def test_a_row_of_another_form_is_refused(work: Path, row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "sequences" / "heldout_documents.jsonl").write_text(json.dumps(row) + "\n")
    list_again(work / "sequences", "heldout_documents.jsonl")
    monkeypatch.setattr(CheckedFiles, "_compare", lambda *_: None)
    refused(lambda: list(Sequences.open(work / "sequences").heldout_documents()), r"documents.jsonl:1 is damaged")
