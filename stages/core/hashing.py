"""Canonical JSON and SHA-256: the one way to say "made the same way" (fingerprint) and "the same bytes" (digest)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from stages.core.reading import open_plain


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks, so that equal values give equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_value(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as hex."""
    return hash_bytes(canonical_json(value).encode("utf-8", "surrogatepass"))


def hash_bytes(data: bytes) -> str:
    """SHA-256, as hex."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a plain file's bytes, as hex, read in blocks of 1 MiB. Raises OSError as `open_plain` does."""
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
