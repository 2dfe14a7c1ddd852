"""An artifact is whole or absent, whatever moment a process dies at; a build goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stages.artifacts import folder as folder_module
from stages.artifacts.folder import SAVES, Build, building, units_to_redo
from stages.artifacts.manifest import Manifest, Stamp, open_artifact, read_manifest
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Note
from stages.core.runtime import Runtime


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
        pytest.raises(TfcliError, match="begun with other settings") as caught,
        building(tmp_path / "t", other, Runtime()),
    ):
        pass
    assert caught.value.code == ExitCode.ARTIFACT
    assert caught.value.why == "size changed; it holds saves up to step-00000250"
    assert "--force" in caught.value.fix
    with building(tmp_path / "t", stamp(), Runtime()) as build:
        assert (build.folder / SAVES / "step-00000250").is_dir()
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

    def copy(source: Path, target: Path) -> None:
        if target.name == "three.txt":
            target.write_text("th")
            raise Killed
        target.write_bytes(source.read_bytes())

    run()
    (tmp_path / "t" / "four.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", copy)
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


@pytest.mark.parametrize("place", ["write_json", "_put_in_place"])
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
    sealed = place == "_put_in_place"
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
        patch.setattr("stages.artifacts.folder.os.replace", first_only)
        with pytest.raises(Killed):
            make(tmp_path / "t")
    assert len(list(tmp_path.glob("t.old-*"))) == 1
    events: list[Event] = []
    with building(tmp_path / "t", stamp(), Runtime(report=events.append)) as build:
        assert build.sealed is not None
    assert open_artifact(tmp_path / "t", "tokens").fingerprint == stamp().fingerprint
    assert not list(tmp_path.glob("t.old-*"))
    assert any(isinstance(event, Note) and ".old-" in event.text for event in events)


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
    ours = [f"deep/.a.json.tmp-12-{'0af3' * 2}", f"deep/c.{'0f' * 16}.partial"]
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


def test_a_damaged_plan_begins_anew(tmp_path: Path) -> None:
    for text in ("", "[]", '"x"', json.dumps({"fingerprint": 1})):
        with building(tmp_path / "t", stamp(), Runtime()) as build:
            write_unit(build, "one", "x")
        (tmp_path / "t.partial" / "plan.json").write_text(text)
        with building(tmp_path / "t", stamp(), Runtime()) as build:
            assert build.unit("one") is None


def test_a_foreign_partial_or_old_folder_is_left_alone(tmp_path: Path) -> None:
    for name in ("t.partial", "u.old-12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("x")
    with pytest.raises(TfcliError, match="will not write"):
        make(tmp_path / "t")
    make(tmp_path / "u")
    assert (tmp_path / "t.partial" / "mine.txt").exists()
    assert (tmp_path / "u.old-12" / "mine.txt").exists()


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
