"""Encoding in parts: any number of processes at once, in any order, make the bytes of one run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.folder import building
from stages.artifacts.latents import Latents
from stages.artifacts.manifest import Stamp
from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime, WorkPart
from stages.encode_images import rows as shard_rows
from tests.encode_images.test_stage import Pairs, autoencoder, encode, work

__all__ = ["autoencoder"]  # the fixture


def part(index: int, count: int) -> Runtime:
    return Runtime(device="cpu", workers=0, part=WorkPart(index, count))


def test_every_unit_falls_to_exactly_one_part() -> None:
    for count in (1, 2, 4, 7):
        for unit in range(20):
            assert sum(WorkPart(index, count).has(unit) for index in range(1, count + 1)) == 1


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_last_part_seals_what_one_run_would_have_made(
    tmp_path: Path, autoencoder: Path, order: tuple[int, int]
) -> None:
    whole = encode(tmp_path / "whole", autoencoder)
    target = tmp_path / "parts"
    assert not work(target, autoencoder, part(order[0], 2))
    assert not target.exists()
    assert work(target, autoencoder, part(order[1], 2))
    assert Latents.open(target).manifest.digest == whole.manifest.digest
    assert not target.with_name("parts.partial").exists()


def test_four_parts_at_once_make_the_bytes_of_one_run(tmp_path: Path, autoencoder: Path) -> None:
    """More parts than shards: the fourth has nothing to do. A lock belongs to an open file, so that threads stand in for
    processes."""
    whole = encode(tmp_path / "whole", autoencoder)
    for number in range(5):
        target = tmp_path / f"parts{number}"
        with ThreadPoolExecutor(4) as pool:
            sealed = list(pool.map(lambda index, at=target: work(at, autoencoder, part(index, 4)), range(1, 5)))  # type: ignore[misc]
        assert any(sealed)
        assert Latents.open(target).manifest.digest == whole.manifest.digest


def test_the_same_part_twice_at_once_is_done_once(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = shard_rows.write_shard

    def again(path: Path, shard: int, rows: Any) -> Path:
        written.append(shard)
        if len(written) == 1:
            assert not work(
                tmp_path / "parts", autoencoder, part(1, 2)
            )  # the second process, in the midst of the first
        return real(path, shard, rows)

    monkeypatch.setattr(shard_rows, "write_shard", again)
    assert not work(tmp_path / "parts", autoencoder, part(1, 2))
    assert sorted(written) == [0, 2]
    assert work(tmp_path / "parts", autoencoder, part(2, 2))
    assert sorted(written) == [0, 1, 2]


def test_nobody_seals_while_another_part_is_at_work(tmp_path: Path, autoencoder: Path) -> None:
    target = tmp_path / "parts"
    assert not work(target, autoencoder, part(1, 2))
    with building(target, Stamp("latents", "encode", 1, 0, {"dtype": "float16"}), part(1, 2)):
        assert not work(target, autoencoder, part(2, 2))  # all shards are there, but a part has not ended
    assert not target.exists()
    assert work(target, autoencoder, part(1, 2))


def test_a_killed_part_is_made_up_for(tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dying(_path: Path, _shard: int, _rows: Any) -> Path:
        raise Killed

    whole = encode(tmp_path / "whole", autoencoder)
    target = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(shard_rows, "write_shard", dying)
        with pytest.raises(Killed):
            work(target, autoencoder, part(2, 2))
    assert not work(target, autoencoder, part(1, 2))
    assert work(target, autoencoder, part(2, 2))
    assert Latents.open(target).manifest.digest == whole.manifest.digest


def test_a_whole_run_goes_on_with_what_parts_left(tmp_path: Path, autoencoder: Path) -> None:
    whole = encode(tmp_path / "whole", autoencoder)
    assert not work(tmp_path / "parts", autoencoder, part(1, 3))
    assert encode(tmp_path / "parts", autoencoder).manifest.digest == whole.manifest.digest


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """Latents at which a part is at work."""
    target = tmp_path / "parts"
    with building(target, Stamp("latents", "encode", 1, 0, {"dtype": "float16"}), part(1, 2)):
        yield target


def test_a_whole_run_beside_a_part_is_refused(busy: Path, autoencoder: Path) -> None:
    with pytest.raises(TfcliError, match="made by another process") as caught:
        work(busy, autoencoder, Runtime(device="cpu", workers=0))
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_parts_mend_damaged_latents(tmp_path: Path, autoencoder: Path) -> None:
    whole = encode(tmp_path / "whole", autoencoder)
    (tmp_path / "whole" / "arrays" / "8x8" / "c" / "1" / "0" / "0" / "0" / "0").unlink()  # of the second part
    assert not work(tmp_path / "whole", autoencoder, part(1, 2))
    assert work(tmp_path / "whole", autoencoder, part(2, 2))
    assert Latents.open(tmp_path / "whole").manifest.digest == whole.manifest.digest


def test_a_part_never_throws_the_work_of_others_away(tmp_path: Path, autoencoder: Path) -> None:
    assert not work(tmp_path / "parts", autoencoder, part(1, 2))
    with pytest.raises(TfcliError, match="with other settings") as caught:
        work(tmp_path / "parts", autoencoder, part(2, 2), dtype="float32")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert work(tmp_path / "parts", autoencoder, part(2, 2))


def test_too_many_failures_over_all_parts_are_refused(tmp_path: Path, autoencoder: Path) -> None:
    """Each part lets one failure in its first hundred pass; together they are too many."""
    source = Pairs(bad=(0, 5))
    assert not work(tmp_path / "parts", autoencoder, part(1, 2), source, max_bad=0.01)
    with pytest.raises(TfcliError, match="cannot be used"):
        work(tmp_path / "parts", autoencoder, part(2, 2), source, max_bad=0.01)


def test_parts_with_other_settings_are_refused(busy: Path, autoencoder: Path) -> None:
    with pytest.raises(TfcliError, match="with other settings") as caught:
        work(busy, autoencoder, part(2, 2), dtype="float32")
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_a_part_beside_a_whole_run_is_refused(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.artifacts.folder._JOIN_SECONDS", 0.1)
    target = tmp_path / "whole"
    with (
        building(target, Stamp("latents", "encode", 1, 0, {}), Runtime()),
        pytest.raises(TfcliError, match="made by another process"),
    ):
        work(target, autoencoder, part(1, 2))


def test_a_part_of_finished_latents_has_nothing_to_do(tmp_path: Path, autoencoder: Path) -> None:
    whole = encode(tmp_path / "whole", autoencoder)
    assert work(tmp_path / "whole", autoencoder, part(1, 2))
    assert Latents.open(tmp_path / "whole").manifest.digest == whole.manifest.digest


@pytest.mark.slow
def test_two_actors_of_ray_make_the_bytes_of_one_run(tmp_path: Path, autoencoder: Path) -> None:
    pytest.importorskip("ray")
    whole = encode(tmp_path / "whole", autoencoder)
    assert work(tmp_path / "ray", autoencoder, Runtime(device="cpu", workers=2, engine="ray"))
    assert Latents.open(tmp_path / "ray").manifest.digest == whole.manifest.digest
