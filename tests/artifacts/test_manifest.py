"""A manifest is read whole or refused with the reason; an input that changed is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.folder import building
from stages.artifacts.manifest import (
    FileEntry,
    InputEntry,
    Manifest,
    Stamp,
    digest_of,
    input_entry,
    open_artifact,
    open_input,
    read_manifest,
)
from stages.core.errors import ExitCode, TfcliError
from stages.core.hashing import hash_bytes, hash_value
from stages.core.runtime import Runtime
from tests.builders import edit_manifest


def make(folder: Path, kind: str = "latents", text: str = "x", inputs: dict[str, InputEntry] | None = None) -> Manifest:
    stamp = Stamp(kind=kind, stage="encode", stage_version=1, seed=0, config={"text": text}, inputs=inputs or {})
    with building(folder, stamp, Runtime(), force=True) as build:
        (build.folder / "data.txt").write_text(text)
        return build.seal({}, {})


def refusal(folder: Path, kind: str = "latents") -> TfcliError:
    with pytest.raises(TfcliError) as caught:
        open_artifact(folder, kind)
    assert caught.value.code == ExitCode.ARTIFACT
    assert caught.value.fix
    return caught.value


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    manifest = make(tmp_path / "a")
    assert read_manifest(tmp_path / "a") == open_artifact(tmp_path / "a", "latents") == manifest


def test_a_missing_one_is_none_and_says_which_command_makes_it(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "a") is None
    assert "tfcli encode" in refusal(tmp_path / "a").fix
    (tmp_path / "a.partial").mkdir()
    assert "not finished" in refusal(tmp_path / "a").why
    (tmp_path / "file").write_text("x")
    assert read_manifest(tmp_path / "file") is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"envelope": 4, "surprise": 1}, "newer tfcli"),
        ({"schema_version": 9}, "newer tfcli"),
        ({"schema_version": 1}, "reads 2"),
        ({"kind": "dreams"}, "newer tfcli"),
        ({"digest": 3}, "digest"),
        ({"surprise": 1}, "surprise"),
        ({"files": [{"path": "a"}]}, "files.0"),
    ],
)
def test_what_this_version_does_not_know_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    make(tmp_path / "a")
    edit_manifest(tmp_path / "a", lambda raw: raw.update(changes))
    assert why in refusal(tmp_path / "a").why


def test_each_single_bit_of_a_manifest_is_checked(tmp_path: Path) -> None:
    """Whatever the bit belongs to (config, seed, statistics, time, command): the manifest is as it was sealed or is refused."""
    before = make(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert read_manifest(tmp_path / "a") == before  # a blank, a number that is written otherwise
        except TfcliError:
            refused += 1
    assert refused > 0.8 * len(data)


def test_a_manifest_without_a_sum_is_checked_by_its_digest_and_its_fingerprint(tmp_path: Path) -> None:
    make(tmp_path / "a")

    def without_sum(raw: dict[str, Any]) -> None:
        raw["envelope"] = 2

    edit_manifest(tmp_path / "a", without_sum)
    found = open_artifact(tmp_path / "a", "latents")
    assert not found.has_sum
    for change in ({"seed": 1}, {"config": {"text": "y"}}, {"content": {"n": 1}}, {"fingerprint": "0" * 64}):
        make(tmp_path / "a")
        edit_manifest(tmp_path / "a", lambda raw, change=change: raw.update(change, envelope=2))
        assert "damaged" in refusal(tmp_path / "a").why


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\0b", ""])
def test_names_that_lead_out_of_the_folder_are_refused_where_they_are_parsed(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a")
    edit_manifest(tmp_path / "a", lambda raw: raw["files"][0].update(path=name))
    assert "files.0.path" in refusal(tmp_path / "a").why


def test_no_link_inside_of_an_artifact_is_followed(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "x").write_text("x")
    (tmp_path / "a" / "data.txt").unlink()
    (tmp_path / "a" / "data.txt").symlink_to(tmp_path / "x")
    assert "symbolic link" in refusal(tmp_path / "a").why


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_bytes(data)
    assert "not" in refusal(tmp_path / "a").why


def test_every_cut_of_a_manifest_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    data = path.read_bytes().rstrip()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        assert "not JSON" in refusal(tmp_path / "a").why


def test_another_kind_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", "tokens")
    assert refusal(tmp_path / "a").what == f"{tmp_path / 'a'} holds tokens, not latents"


@pytest.mark.parametrize("data", [None, b"", b"xy"])
def test_a_file_that_is_gone_or_has_another_size_is_refused(tmp_path: Path, data: bytes | None) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a" / "data.txt"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert refusal(tmp_path / "a").what.startswith(str(path))


def test_an_input_is_followed_until_it_changes(tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    consumer = make(tmp_path / "b", "tokens", inputs={"latents": input_entry(tmp_path / "a", tmp_path / "b", source)})
    assert consumer.inputs["latents"].path == "../a"
    assert open_input(tmp_path / "b", consumer, "latents") == ((tmp_path / "a").resolve(), source)
    make(tmp_path / "a")  # made again, the same
    assert open_input(tmp_path / "b", consumer, "latents")[1].digest == source.digest
    make(tmp_path / "a", text="y")
    with pytest.raises(TfcliError, match="made from other latents") as caught:
        open_input(tmp_path / "b", consumer, "latents")
    assert caught.value.code == ExitCode.ARTIFACT
    assert "tfcli tokenize" in caught.value.fix


def test_a_moved_work_folder_keeps_its_inputs(tmp_path: Path) -> None:
    source = make(tmp_path / "w" / "a")
    entry = input_entry(tmp_path / "w" / "a", tmp_path / "w" / "b", source)
    consumer = make(tmp_path / "w" / "b", "tokens", inputs={"latents": entry})
    (tmp_path / "w").rename(tmp_path / "v")
    assert open_input(tmp_path / "v" / "b", consumer, "latents")[1] == source


def test_each_fact_changes_the_fingerprint_and_places_do_not() -> None:
    base: dict[str, Any] = {"kind": "tokens", "stage": "s", "stage_version": 1, "seed": 0, "config": {"a": 1}}
    entry = {"kind": "latents", "fingerprint": "f", "digest": "d"}
    inputs = {"latents": InputEntry(path="../a", **entry)}
    variants = [
        {},
        {"kind": "latents"},
        {"stage": "t"},
        {"stage_version": 2},
        {"seed": 1},
        {"config": {"a": 2}},
        {"outside": "x"},
        {"inputs": inputs},
        {"inputs": {"latents": InputEntry(path="../a", **{**entry, "digest": "e"})}},
    ]
    assert len({Stamp(**{**base, **variant}).fingerprint for variant in variants}) == len(variants)
    elsewhere = {"latents": InputEntry(path="../elsewhere", **entry)}
    assert Stamp(**base, inputs=elsewhere).fingerprint == Stamp(**base, inputs=inputs).fingerprint


def test_the_digest_does_not_depend_on_order_and_leaves_out_volatile_files() -> None:
    files = [FileEntry(path=name, bytes=1, sha256=name) for name in "abc"]
    log = FileEntry(path="log", bytes=9, sha256="z", volatile=True)
    assert digest_of(files, {}, {}) == digest_of([log, *reversed(files)], {}, {}) != digest_of(files[1:], {}, {})


def test_the_same_bytes_with_other_facts_or_on_other_inputs_are_another_artifact() -> None:
    """The order of the sources is a fact, not a file; latents are read by reference, through ids that may be the same."""
    files = [FileEntry(path="a", bytes=1, sha256="a")]
    facts = {"kind": "latents", "fingerprint": "f"}
    one, other = (InputEntry(path="../a", digest=digest, **facts) for digest in "de")
    variants = [
        ({}, {}),
        ({"sources": ["a", "b"]}, {}),
        ({"sources": ["b", "a"]}, {}),
        ({}, {"latents": one}),
        ({}, {"latents": other}),
        ({}, {"start": one}),
    ]
    assert len({digest_of(files, *variant) for variant in variants}) == len(variants)
    moved = one.model_copy(update={"path": "../elsewhere", "fingerprint": "other settings, the same result"})
    assert digest_of(files, {}, {"latents": moved}) == digest_of(files, {}, {"latents": one})


def test_an_older_manifest_whose_digest_is_of_files_alone_is_known_by_its_fingerprint_too(tmp_path: Path) -> None:
    old = hash_value([["data.txt", 1, hash_bytes(b"x")]])

    def envelope_1(folder: Path, **changes: Any) -> Manifest:
        def change(raw: dict[str, Any]) -> None:
            raw.update(changes, envelope=1, digest=old)
            raw["fingerprint"] = hash_value(Manifest.model_validate(raw).fingerprint_inputs())

        edit_manifest(folder, change)
        return open_artifact(folder, "latents")

    make(tmp_path / "a")
    source = envelope_1(tmp_path / "a", content={"facts": "that an older digest does not see"})
    assert source.digest_holds()
    assert not source.model_copy(update={"envelope": 2}).digest_holds()
    consumer = make(tmp_path / "b", "tokens", inputs={"latents": input_entry(tmp_path / "a", tmp_path / "b", source)})
    open_input(tmp_path / "b", consumer, "latents")
    other = envelope_1(tmp_path / "a", seed=1)
    with pytest.raises(TfcliError, match="made from other latents") as caught:
        open_input(tmp_path / "b", consumer, "latents")
    assert caught.value.why.startswith(f"fingerprint {other.fingerprint[:12]},")
