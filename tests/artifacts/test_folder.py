"""An artifact is whole or absent, whatever moment a process dies at; a build goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from stages.artifacts import folder as folder_module
from stages.artifacts.folder import SAVES, Build, building, units_to_redo
from stages.artifacts.manifest import Manifest, Stamp, open_artifact, read_manifest
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Note, Warn
from stages.core.files import with_sum
from stages.core.hashing import hash_bytes
from stages.core.runtime import Runtime
from tests.builders import edit_manifest


class Killed(BaseException):
    """Stands in for a SIGKILL at a place in the code."""


def stamp(seed: int = 0) -> Stamp:
    return Stamp(kind="tokens", stage="tokenize", stage_version=1, seed=seed, config={"size": 3})


def write_unit(build: Build, name: str, data: str) -> bool:
    """Do a unit unless it is done; returns whether there was work."""
    if build.unit(name) is not None:
        return False
    path = build.folder / f"{name}.txt"
    path.write_text(data)
    build.finish_unit(name, {"letters": len(data)}, [path])
    return True


def make(target: Path, seed: int = 0, *, force: bool = False, log: str = "") -> Manifest:
    with building(target, stamp(seed), Runtime(), force=force) as build:
        if build.sealed:
            return build.sealed
        write_unit(build, "one", "first")
        (build.folder / "log.txt").write_text(log)
        return build.seal({"n": 1}, {}, volatile=("log.txt",))


def test_a_sealed_artifact_opens_and_holds_only_its_own_files(tmp_path: Path) -> None:
    manifest = make(tmp_path / "t")
    assert open_artifact(tmp_path / "t", "tokens") == manifest
    names = {path.relative_to(tmp_path / "t").as_posix() for path in (tmp_path / "t").rglob("*")}
    assert (
        names
        == {"manifest.json", *(entry.path for entry in manifest.files)}
        == {"manifest.json", "one.txt", "log.txt", "units.jsonl"}
    )
    assert not (tmp_path / "t.partial").exists()


@pytest.mark.parametrize(("code", "made", "left"), [(2, False, False), (2, True, True), (3, False, False)])
def test_what_was_refused_before_anything_was_made_leaves_nothing(
    tmp_path: Path, code: int, made: bool, left: bool
) -> None:
    def refused() -> None:
        with building(tmp_path / "t", stamp(), Runtime()) as build:
            (build.folder / "recipe.json").write_text("{}")
            (build.folder / "images").mkdir()
            if made:
                write_unit(build, "one", "first")
            raise TfcliError("no", code=ExitCode(code))

    with pytest.raises(TfcliError):
        refused()
    assert (tmp_path / "t.partial").exists() == left


def test_saves_of_other_settings_are_kept_and_the_setting_is_named(tmp_path: Path) -> None:
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        (build.folder / SAVES / "step-00000250").mkdir(parents=True)
    other = Stamp(kind="tokens", stage="tokenize", stage_version=1, seed=0, config={"size": 4})
    with (
        pytest.raises(TfcliError, match="started with other settings") as caught,
        building(tmp_path / "t", other, Runtime()),
    ):
        pass
    assert caught.value.code == ExitCode.ARTIFACT
    assert caught.value.why == "size changed; it holds saves up to step-00000250"
    assert "--replace" in caught.value.fix
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert (build.folder / SAVES / "step-00000250").is_dir()
    with building(tmp_path / "t", other, Runtime(), replace=True) as build:
        assert not (build.folder / SAVES).exists()
    with building(tmp_path / "t", other, Runtime(), force=True) as build:
        assert not (build.folder / SAVES).exists()


def test_finished_units_are_kept_and_damaged_ones_done_again(tmp_path: Path) -> None:
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        for name in ("one", "two", "three"):
            write_unit(build, name, name)
    (tmp_path / "t.partial" / "two.txt").write_text("tw")
    (tmp_path / "t.partial" / "three.txt").unlink()
    assert read_manifest(tmp_path / "t") is None
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert build.unit("one") == {"letters": 3}
        assert [write_unit(build, name, name) for name in ("one", "two", "three")] == [False, True, True]
        build.seal({}, {})
    assert [entry.path for entry in open_artifact(tmp_path / "t", "tokens").files] == [
        "one.txt",
        "three.txt",
        "two.txt",
        "units.jsonl",
    ]


def test_a_unit_whose_bytes_have_changed_is_made_again(tmp_path: Path) -> None:
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        for name in ("one", "two"):
            write_unit(build, name, name)
    (tmp_path / "t.partial" / "two.txt").write_text("twp")  # the same size
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert [write_unit(build, name, name) for name in ("one", "two")] == [False, True]
        build.seal({}, {})
    assert (tmp_path / "t" / "two.txt").read_text() == "two"


def test_units_of_a_damaged_artifact_that_are_whole_are_kept(tmp_path: Path) -> None:
    def run(retry: bool = False, force: bool = False) -> list[str]:
        """The units that had to be made."""
        with building(tmp_path / "t", stamp(), Runtime(retry_failed=retry), force=force) as build:
            made = [name for name in ("one", "two", "three") if write_unit(build, name, name)]
            build.seal({}, {})
        return made

    assert run() == ["one", "two", "three"]
    whole = open_artifact(tmp_path / "t", "tokens")
    assert run() == []
    (tmp_path / "t" / "two.txt").unlink()
    assert units_to_redo(tmp_path / "t") == 1
    assert run() == ["two"]
    (tmp_path / "t" / "three.txt").write_text("thref")  # the same size
    assert run() == ["three"]
    assert open_artifact(tmp_path / "t", "tokens").digest == whole.digest
    assert run(force=True) == ["one", "two", "three"]


def test_units_of_another_run_are_never_kept(tmp_path: Path) -> None:
    """The same names and sizes, but other settings: nothing may be taken over."""

    def run(seed: int) -> list[str]:
        with building(tmp_path / "t", stamp(seed), Runtime()) as build:
            made = [name for name in ("one", "two") if write_unit(build, name, name)]
            build.seal({}, {})
        return made

    assert run(1) == ["one", "two"]
    assert run(2) == ["one", "two"]


def test_failed_units_are_made_again_where_that_is_wanted(tmp_path: Path) -> None:
    def run(retry: bool, failed: int) -> list[str]:
        made = []
        with building(tmp_path / "t", stamp(), Runtime(retry_failed=retry)) as build:
            for name, number in (("one", 0), ("two", failed)):
                if build.unit(name) is None:
                    made.append(name)
                    (build.folder / name).write_text(f"{number}")
                    build.finish_unit(name, {"failed": number}, [build.folder / name])
            if failed < 3:
                build.seal({}, {})
        return made

    assert run(False, 3) == ["one", "two"]  # not sealed
    assert run(True, 2) == ["two"]
    assert units_to_redo(tmp_path / "t") == 1
    assert run(False, 2) == []
    assert run(True, 0) == ["two"]
    assert units_to_redo(tmp_path / "t") == 0


@pytest.mark.parametrize("force", [False, True])
def test_a_kill_while_units_are_taken_over_loses_none_and_force_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    names = ("one", "two", "three", "four")
    made: list[str] = []

    def run(*, force: bool = False) -> None:
        with building(tmp_path / "t", stamp(), Runtime(), force=force) as build:
            for name in names:
                if write_unit(build, name, name):
                    made.append(name)
                    if force:
                        raise Killed
            build.seal({}, {})

    def copy(source: BinaryIO, target: BinaryIO, _size: int) -> None:
        if str(target.name).endswith("three.txt"):
            target.write(b"th")
            raise Killed
        target.write(source.read())

    run()
    (tmp_path / "t" / "four.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", copy)
        with pytest.raises(Killed):
            run(force=force)
    run()
    assert made == [*names, *(names if force else ["four"])]
    assert units_to_redo(tmp_path / "t") == 0


def test_a_failed_unit_leaves_no_file_that_the_new_one_has_not(tmp_path: Path) -> None:
    for failed, names in ((1, ("a", "b")), (0, ("b", "c"))):
        with building(tmp_path / "t", stamp(), Runtime(retry_failed=True)) as build:
            paths = [build.folder / name for name in names]
            for path in paths:
                path.write_text(f"{failed}")
            build.finish_unit("one", {"failed": failed}, paths)
            if not failed:
                assert {entry.path for entry in build.seal({}, {}).files} == {"b", "c", "units.jsonl"}


def test_a_unit_with_half_a_record_is_not_done(tmp_path: Path) -> None:
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        write_unit(build, "one", "x")
        (build.folder / "units" / "one.json").write_text('{"facts"')
        assert build.unit("one") is None
        assert build.unit("two") is None


def test_other_settings_begin_anew_and_so_does_force(tmp_path: Path) -> None:
    for seed, force, kept in [(0, False, True), (0, True, False), (1, False, False)]:
        with building(tmp_path / "t", stamp(0), Runtime(), force=True) as build:
            write_unit(build, "one", "x")
        with building(tmp_path / "t", stamp(seed), Runtime(), force=force) as build:
            assert (build.unit("one") is not None) == kept
            assert (build.folder / "one.txt").exists() == kept


@pytest.mark.parametrize("place", ["write_manifest", "rename_into_place"])
@pytest.mark.parametrize("old", [False, True])
def test_a_kill_while_sealing_leaves_the_old_or_nothing_and_the_next_run_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, old: bool
) -> None:
    before = make(tmp_path / "t", seed=1) if old else None

    def killed(*_arguments: object) -> None:
        raise Killed

    with building(tmp_path / "t", stamp(), Runtime()) as build, monkeypatch.context() as patch:
        write_unit(build, "one", "first")
        (build.folder / "log.txt").write_text("")
        patch.setattr(folder_module, place, killed)
        with pytest.raises(Killed):
            build.seal({"n": 1}, {}, volatile=("log.txt",))
    assert read_manifest(tmp_path / "t") == before
    sealed = place == "rename_into_place"
    assert (tmp_path / "t.partial" / "manifest.json").exists() == sealed
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert (build.sealed is not None) == sealed
    after = make(tmp_path / "t")
    assert after.fingerprint == stamp().fingerprint
    assert open_artifact(tmp_path / "t", "tokens").digest == after.digest


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "t", seed=1)
    replace = os.replace

    def first_only(source: Path, target: Path) -> None:
        if Path(source).name == "t.partial":
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("stages.artifacts.removal.os.replace", first_only)
        with pytest.raises(Killed):
            make(tmp_path / "t")
    assert len(list(tmp_path.glob(".t.replaced-*"))) == 1
    events: list[Event] = []
    with building(tmp_path / "t", stamp(), Runtime(report=events.append)) as build:
        assert build.sealed is not None
    assert open_artifact(tmp_path / "t", "tokens").fingerprint == stamp().fingerprint
    assert not list(tmp_path.glob(".t.replaced-*"))
    assert any(isinstance(event, Note) and ".replaced-" in event.text for event in events)


def test_what_tfcli_did_not_make_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("miaow")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(TfcliError) as caught:
            make(tmp_path / name, force=True)
        assert caught.value.code == ExitCode.USAGE
    assert (tmp_path / "photos" / "cat.png").read_text() == "miaow"
    (tmp_path / "empty").mkdir()
    assert make(tmp_path / "empty").kind == "tokens"


def test_a_second_process_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    with building(tmp_path / "t", stamp(), Runtime()):
        with pytest.raises(TfcliError, match="another process") as caught:
            make(tmp_path / "t")
        assert caught.value.code == ExitCode.ENVIRONMENT
        assert f"pid {os.getpid()} on" in caught.value.why
    assert make(tmp_path / "t").kind == "tokens"


def test_half_written_files_of_a_killed_process_are_swept_and_no_others(tmp_path: Path) -> None:
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        (build.folder / "deep").mkdir()
    ours = [f"deep/.a.json.tmp-12-{'0af3' * 2}", f"deep/c.{'0f' * 16}.partial", "deep/.tmpAb12Cd"]
    others = ["deep/a.tmp-1", "deep/b.partial", ".hidden", f"c.{'0g' * 16}.partial"]
    for name in [*ours, *others]:
        (tmp_path / "t.partial" / name).write_text("x")
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert [name for name in ours if (build.folder / name).exists()] == []
        assert [name for name in others if (build.folder / name).exists()] == others
        (build.folder / ours[0]).write_text("of a part that was killed beside this one")
        assert {entry.path for entry in build.seal({}, {}).files} == set(others)


def test_the_digest_is_about_content_only(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", log="10 s"), make(tmp_path / "b", log="11 s")
    assert first.digest == second.digest
    assert {entry.path: entry.volatile for entry in first.files} == {
        "log.txt": True,
        "one.txt": False,
        "units.jsonl": True,
    }
    with building(tmp_path / "c", stamp(), Runtime()) as build:
        write_unit(build, "one", "other")
        third = build.seal({"n": 1}, {})
    assert third.digest != first.digest
    assert third.fingerprint == first.fingerprint


def test_a_command_line_that_is_no_unicode_does_not_spoil_the_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["tfcli", "tokenize", os.fsdecode(b"caf\xe9.toml")]
    monkeypatch.setattr("sys.argv", command)
    make(tmp_path / "t")
    assert open_artifact(tmp_path / "t", "tokens").provenance["command"] == command


def test_a_folder_whose_plan_does_not_prove_that_it_is_ours_is_never_deleted(tmp_path: Path) -> None:
    foreign = {"fingerprint": "0" * 64, "facts": {"kind": "a plan of another program"}, "take_over": True}
    for text in ("", "[]", '"x"', json.dumps({"fingerprint": 1}), json.dumps(foreign)):
        with building(tmp_path / "t", stamp(), Runtime(), replace=True) as build:
            write_unit(build, "one", "x")
        plan = (tmp_path / "t.partial" / "plan.json").read_bytes()
        (tmp_path / "t.partial" / "plan.json").write_text(text)
        for force in (False, True):
            with pytest.raises(TfcliError, match="will not delete") as caught:
                make(tmp_path / "t", force=force)
            assert caught.value.code == ExitCode.USAGE
        assert (tmp_path / "t.partial" / "one.txt").read_text() == "x"
        (tmp_path / "t.partial" / "plan.json").write_bytes(plan)


def test_a_plan_of_before_there_was_a_sum_is_resumed(tmp_path: Path) -> None:
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        write_unit(build, "one", "x")
    for path in (tmp_path / "t.partial" / "plan.json", tmp_path / "t.partial" / "units" / "one.json"):
        raw = json.loads(path.read_bytes())
        del raw["sha256"]
        path.write_text(json.dumps(raw))
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert build.unit("one") == {"letters": 1}


def test_a_foreign_partial_or_old_folder_is_left_alone(tmp_path: Path) -> None:
    for name in ("t.partial", ".u.replaced-0123456789abcdef", ".u.partial.replaced-0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("x")
    (tmp_path / ".u.partial.replaced-0123456789abcdef" / "plan.json").write_text("{}")
    with pytest.raises(TfcliError, match="will not delete"):
        make(tmp_path / "t")
    assert (tmp_path / "t.partial" / "mine.txt").exists()
    make(tmp_path / "u")
    assert len(list(tmp_path.rglob("mine.txt"))) == 3


def test_a_backup_of_an_artifact_stays(tmp_path: Path) -> None:
    """Names that a person types: `cp -r checkpoint checkpoint.old-1`."""
    make(tmp_path / "t")
    for name in ("t.old-1", "t.old", "t.partial.stale-1", ".t.replaced-1"):
        shutil.copytree(tmp_path / "t", tmp_path / name)
    make(tmp_path / "t", seed=1)
    make(tmp_path / "t", force=True)
    for name in ("t.old-1", "t.old", "t.partial.stale-1", ".t.replaced-1"):
        assert (tmp_path / name / "one.txt").exists()


def test_what_tfcli_did_not_make_inside_of_an_artifact_is_kept_and_named(tmp_path: Path) -> None:
    make(tmp_path / "t")
    (tmp_path / "t" / "deep").mkdir()
    (tmp_path / "t" / "deep" / "notes.txt").write_text("thoughts")
    (tmp_path / "elsewhere.txt").write_text("x")
    (tmp_path / "t" / "link").symlink_to(tmp_path / "elsewhere.txt")
    events: list[Event] = []
    with building(tmp_path / "t", stamp(seed=1), Runtime(report=events.append)) as build:
        write_unit(build, "one", "first")
        build.seal({}, {})
    (kept,) = tmp_path.glob("t.kept-*")
    assert (kept / "deep" / "notes.txt").read_text() == "thoughts"
    assert sorted(path.name for path in kept.iterdir()) == ["deep", "link"]
    assert any(isinstance(event, Warn) and str(kept) in event.text and "deep" in event.text for event in events)
    assert (tmp_path / "elsewhere.txt").read_text() == "x"
    assert not list(tmp_path.glob(".t.replaced*"))


@pytest.mark.parametrize("force", [False, True])
def test_a_manifest_of_another_program_protects_its_folder(tmp_path: Path, force: bool) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "manifest.json").write_text('{"name": "my web page", "icons": []}')
    (tmp_path / "t" / "thesis.txt").write_text("years")
    with pytest.raises(TfcliError, match="will not write") as caught:
        make(tmp_path / "t", force=force)
    assert caught.value.code == ExitCode.USAGE
    assert "--force" not in caught.value.fix
    assert (tmp_path / "t" / "thesis.txt").exists()
    make(tmp_path / "u")
    other = Stamp(kind="latents", stage="encode", stage_version=1, seed=0, config={})
    with pytest.raises(TfcliError, match="will not write"), building(tmp_path / "u", other, Runtime(), force=force):
        pass
    assert (tmp_path / "u" / "one.txt").exists()


def test_a_damaged_manifest_of_ours_is_replaced_by_force_alone(tmp_path: Path) -> None:
    make(tmp_path / "t")
    path = tmp_path / "t" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(TfcliError, match="cannot be used") as caught:
        make(tmp_path / "t")
    assert caught.value.code == ExitCode.ARTIFACT
    assert make(tmp_path / "t", force=True) == open_artifact(tmp_path / "t", "tokens")
    assert not list(tmp_path.glob("t.kept-*"))
    path.write_bytes(path.read_bytes()[:-9])  # no JSON any more: which files were ours is not known
    make(tmp_path / "t", force=True)
    (kept,) = tmp_path.glob("t.kept-*")
    assert (kept / "one.txt").exists()


def hostile(folder: Path, victim: Path) -> list[str]:
    """Ways to name a file outside of a folder, of which the last leads over a link inside of it."""
    (folder / "d").symlink_to(victim.parent)
    return [f"../{victim.name}", f"d/{victim.name}", str(victim), f"x/../../{victim.name}"]


def test_records_of_units_cannot_name_files_outside(tmp_path: Path) -> None:
    """A sealed folder from elsewhere, whose records copy, and a growing one, whose records delete."""
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    make(tmp_path / "t")
    (tmp_path / "t" / "one.txt").unlink()  # so that units are taken over
    for name in hostile(tmp_path / "t", victim):
        row = {
            "unit": "one",
            "facts": {"failed": 1},
            "files": [{"path": name, "bytes": 4, "sha256": hash_bytes(b"mine")}],
        }
        data = (json.dumps(row) + "\n").encode()
        (tmp_path / "t" / "units.jsonl").write_bytes(data)

        def resealed(raw: dict[str, Any], data: bytes = data) -> None:
            (entry,) = [entry for entry in raw["files"] if entry["path"] == "units.jsonl"]
            entry.update(bytes=len(data), sha256=hash_bytes(data))

        edit_manifest(tmp_path / "t", resealed)
        with (
            pytest.raises(TfcliError, match=r"outside|damaged") as caught,
            building(tmp_path / "t", stamp(), Runtime()) as build,
        ):
            pass
        assert caught.value.code == ExitCode.ARTIFACT
        assert victim.read_text() == "mine"
    for name in (f"../{victim.name}", str(victim)):
        with building(tmp_path / "v", stamp(), Runtime()) as build:
            write_unit(build, "one", "x")
        row = {"facts": {"failed": 1}, "files": [{"path": name, "bytes": 4, "sha256": hash_bytes(b"mine")}]}
        (tmp_path / "v.partial" / "units" / "one.json").write_text(json.dumps(with_sum(row)))
        with building(tmp_path / "v", stamp(), Runtime(retry_failed=True)) as build:
            assert build.unit("one") is None
        assert victim.read_text() == "mine"


def test_a_growing_folder_with_links_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        write_unit(build, "one", "x")
    (tmp_path / "t.partial" / "deep").symlink_to(tmp_path / "outside")
    with pytest.raises(TfcliError, match="will not go on in") as caught:
        make(tmp_path / "t")
    assert caught.value.code == ExitCode.ARTIFACT
    (tmp_path / "t.partial" / "deep").unlink()
    (tmp_path / "t.partial").rename(tmp_path / "moved")
    (tmp_path / "t.partial").symlink_to("moved")
    with pytest.raises(TfcliError, match="will not go on in"):
        make(tmp_path / "t")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_lock_is_a_plain_file_of_ours(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    lock = tmp_path / ".t.lock"
    makers: list[Callable[[], object]] = [
        lambda: lock.symlink_to(victim),
        lambda: os.mkfifo(lock),
        lambda: lock.mkdir(),
        lambda: lock.write_text("notes"),
    ]
    for put in makers:
        put()
        with pytest.raises(TfcliError, match="is not a lock") as caught:
            make(tmp_path / "t")
        assert caught.value.code == ExitCode.ENVIRONMENT
        assert victim.read_text() == "mine"
        lock.rmdir() if lock.is_dir() else lock.unlink()
    make(tmp_path / "t")
    make(tmp_path / "t", seed=1)


def test_a_kill_while_hashing_keeps_the_finished_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with building(tmp_path / "t", stamp(), Runtime()) as build:
        write_unit(build, "one", "x")
        with monkeypatch.context() as patch:
            patch.setattr(folder_module, "make_manifest", killed)
            with pytest.raises(KeyboardInterrupt):
                build.seal({}, {})
    (tmp_path / "t.partial" / ".plan.json.tmp-1-0123abcd").write_text("half")
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert build.unit("one") is not None
        build.seal({}, {})
    assert sorted(path.name for path in (tmp_path / "t").iterdir() if path.suffix == ".json") == ["manifest.json"]
    assert not (tmp_path / "t" / "units").exists()
