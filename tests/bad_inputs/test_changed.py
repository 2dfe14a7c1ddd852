"""A file of the user's that changes while it is read: the stage ends with exit code 3 and the file's name, and seals nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import FileSpan
from tests.bad_inputs.faults import PRETRAINED
from tests.bad_inputs.lab import Lab, Shelf, sets


def other_bytes(path: Path) -> None:
    """As many bytes, and the old time: only the time of status tells."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    place = data.find(b'"x"') + 1 if path.suffix == ".jsonl" else len(data) // 3
    data[place] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def of_a_folder(lab: Lab) -> tuple[str, ...]:
    del lab
    return ()


def of_tars(lab: Lab) -> tuple[str, ...]:
    with tarfile.open(lab.folder / "all.tar", "w") as tar:
        for path in sorted((lab.folder / "pictures").iterdir()):
            tar.add(path, path.name)
    return sets("source.kind=webdataset", "source.path=all.tar")


def of_a_table(lab: Lab) -> tuple[str, ...]:
    import pyarrow
    import pyarrow.parquet

    rows = [{"image": path.read_bytes(), "text": "x"} for path in sorted((lab.folder / "pictures").glob("*.png"))]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), lab.folder / "all.parquet")
    return sets("source.kind=parquet", "source.path=all.parquet")


def of_lines(lab: Lab) -> tuple[str, ...]:
    names = [path.name for path in sorted((lab.folder / "pictures").glob("*.png"))]
    rows = [{"id": name, "parts": [{"text": "x"}, {"image": name}]} for name in names]
    (lab.folder / "pictures" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return sets("source.kind=jsonl", "source.path=pictures/all.jsonl")


def of_text(lab: Lab) -> tuple[str, ...]:
    lab.finish()
    shutil.rmtree(lab.folder / "work" / "tokens")
    (lab.folder / "novel.txt").write_text("a\n" * 50)
    (lab.folder / "captions.jsonl").write_text('{"key": "good1", "text": "x"}\n')
    with (lab.folder / "recipe.toml").open("a") as recipe:
        recipe.write('[[tokenize.text]]\nkind = "text"\npath = "novel.txt"\n')
    return sets("tokenize.captions=captions.jsonl")


def of_a_model(lab: Lab) -> tuple[str, ...]:
    shutil.copytree(lab.shelf.autoencoder / "model", lab.folder / "vae")
    shutil.rmtree(lab.folder / "work" / "autoencoder")
    return PRETRAINED


SHARD = "stages.encode_images.rows.write_shard"
COLUMNS = "stages.tokenize_text.stage.write_flat"
CASES: list[tuple[str, Callable[[Lab], tuple[str, ...]], str, str]] = [  # command, source, file that changes, when
    ("encode", of_a_folder, "pictures/good1.png", SHARD),
    ("encode", of_a_folder, "pictures/good1.txt", SHARD),
    ("encode", of_a_folder, "pictures/good5.png", "stages.encode_images.stage.count_documents"),
    ("encode", of_tars, "all.tar", SHARD),
    ("encode", of_a_table, "all.parquet", SHARD),
    ("encode", of_lines, "pictures/all.jsonl", SHARD),
    ("encode", of_lines, "pictures/good2.png", SHARD),
    ("tokenize", of_text, "novel.txt", COLUMNS),
    ("tokenize", of_text, "captions.jsonl", COLUMNS),
    ("vae", of_a_model, "pictures/good1.png", "stages.coders.quality.psnr"),
    ("vae", of_a_model, "pictures/good1.png", "stages.train_autoencoder.stage.load_vae"),
    ("vae", of_a_model, "vae/config.json", "stages.train_autoencoder.stage.load_vae"),
]


@pytest.mark.parametrize(("command", "source", "name", "when"), CASES)
def test_it_is_named_and_nothing_is_sealed(
    tmp_path: Path,
    shelf: Shelf,
    command: str,
    source: Callable[[Lab], tuple[str, ...]],
    name: str,
    when: str,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(tmp_path / "lab", shelf, patch)
        more = source(lab)
        before = lab.sealed()
        changed: list[str] = []
        module, _, function = when.rpartition(".")
        real = getattr(__import__(module, fromlist=[function]), function)

        def change(*arguments: Any, **options: Any) -> Any:
            found = real(*arguments, **options)
            if not changed:
                changed.append(name)
                other_bytes(lab.folder / name)
            return found

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(when, change)
            outcome = lab.run(command, *more)
        if when.endswith("psnr"):  # the pictures are read: what becomes of them later is of no account
            assert outcome.code == 0
            return
        assert changed, outcome.stderr
        assert outcome.code == 3, outcome.stderr
        assert f"{name}: CHANGED_DURING_READ" in outcome.lines[0]
        assert lab.sealed() == before


def test_a_picture_more_is_named(tmp_path: Path, shelf: Shelf) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(tmp_path / "lab", shelf, patch)
        from stages.encode_images import stage

        real = stage.count_documents

        def count(items: Any) -> tuple[int, int]:
            lab.add("good11.png", shelf.pictures[0])
            return real(items)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(stage, "count_documents", count)
            outcome = lab.run("encode")
        assert outcome.code == 3
        assert "good11.png: CHANGED_DURING_READ" in outcome.stderr
        assert "12 files then, 14 now" in outcome.stderr
        again = lab.run("encode")
        assert again.code == 0, again.stderr


def test_a_file_that_is_written_to_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"x" * 1000)
    assert FileSpan(path).read() == b"x" * 1000
    seen: list[bool] = []

    class Slow(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            with path.open("ab") as other:
                other.write(b"y")
            seen.append(True)
            return super().read(size) or b""

    monkeypatch.setattr(os, "fdopen", lambda descriptor, _mode: Slow(descriptor))
    with pytest.raises(TfcliError, match=r"picture.png: CHANGED_DURING_READ") as caught:
        FileSpan(path).read()
    assert seen
    assert caught.value.code == ExitCode.INPUT


@pytest.mark.parametrize("workers", [0, 1])
def test_a_changed_picture_ends_the_run_and_is_no_picture_that_is_left_out(tmp_path: Path, workers: int) -> None:
    from stages.coders.config import Images
    from stages.sources.decoding import PictureReader

    with PictureReader(Images(size=16), workers) as reader, pytest.raises(TfcliError, match="CHANGED_DURING") as caught:
        list(reader.read([Changing(tmp_path / "x.png")]))
    assert caught.value.code == ExitCode.INPUT


class Changing:
    """A picture that somebody writes to, in whatever process it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        from stages.sources.hash_cache import changed_during_read

        raise changed_during_read(self.path)
