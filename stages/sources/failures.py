"""When a run of encoding has left out too much of its source: pictures that cannot be used, and samples that have no caption,
no picture or no row that can be read.

Counted is each thing that the source takes for a sample of its own and that becomes none. Not counted is what never was one
(`_NO_SAMPLE`): files of other kinds in a tar, pipes and devices, and the rest of a tar that allow_truncated gives up by name.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from stages.core.errors import ExitCode, TfcliError
from stages.core.text import printable
from stages.sources.document import Omission
from stages.sources.reasons import FIXES

_NO_SAMPLE = ("IGNORED_MEMBERS", "SKIPPED_SPECIAL", "TAR_TRUNCATED")


class Failures:
    """Stops the run where too many pictures fail: a wrong folder or a missing codec must not be found at the end.

    The limit for pictures is max_bad of those seen so far, of the first 100 where fewer were seen, and of the last `window`: a
    disk that goes away after millions of good pictures is found as well. The limit for all that is left out is max_bad of
    what was listed so far, counted shard by shard before the pictures of a shard are read.
    """

    def __init__(self, max_bad: float, window: int) -> None:
        self.max_bad = max_bad
        self.bad = self.seen = 0
        self.listed = self.omitted = 0
        self._omissions: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}  # of each reason, the newest
        self._recent: deque[int] = deque(maxlen=window)
        self._recent_bad = 0

    def lists(self, pictures: int, omissions: Sequence[Omission]) -> None:
        """A shard's pictures, not yet read, and what the source left out among them. Raises TfcliError (INPUT) where that is
        too much even if all the pictures are good."""
        lost = [omission for omission in omissions if omission.reason not in _NO_SAMPLE]
        self.listed += pictures + len(lost)
        self.omitted += len(lost)
        self._omissions.update(omission.reason for omission in lost)
        self._examples.update({omission.reason: f"{printable(omission.path)}: {omission.message}" for omission in lost})
        left_out = self.bad + self.omitted
        if lost and left_out > self.max_bad * max(100, self.listed):
            which, reasons = f"{left_out} of the first {self.listed} samples", self.reasons + self._omissions
            raise _too_many(which, reasons, self._examples)

    def saw_record(self, record: dict[str, Any]) -> None:
        """Count the pictures of a finished shard."""
        self.saw(record["good"], [error for error in record["errors"] if "row" in error])

    def saw(self, good: int, errors: list[dict[str, Any]]) -> None:
        """So many more pictures, in the order of the source. Raises TfcliError (INPUT) where too many failed."""
        self.bad += len(errors)
        self.seen += good + len(errors)
        self.reasons.update(error["reason"] for error in errors)
        self._examples.update({error["reason"]: f"{printable(error['path'])}: {error['message']}" for error in errors})
        if good + len(errors) == 1:
            if len(self._recent) == self._recent.maxlen:
                self._recent_bad -= self._recent[0]
            self._recent.append(len(errors))
            self._recent_bad += len(errors)
        if not errors:
            return
        if self.bad > self.max_bad * max(100, self.seen):
            raise _too_many(f"{self.bad} of the first {self.seen} pictures", self.reasons, self._examples)
        if self.omitted and self.bad + self.omitted > self.max_bad * max(100, self.listed):
            which = f"{self.bad + self.omitted} of the first {self.listed} samples"
            raise _too_many(which, self.reasons + self._omissions, self._examples)
        window = self._recent.maxlen or 0
        if len(self._recent) == window and self._recent_bad > self.max_bad * window:
            which = f"{self._recent_bad} of the last {window} pictures"
            raise _too_many(which, Counter([errors[-1]["reason"]]), self._examples, how="now")


def _too_many(which: str, reasons: Counter[str], examples: dict[str, str], how: str = "mostly") -> TfcliError:
    reason, count = reasons.most_common(1)[0]
    named = reason if how == "now" else f"{reason} ({count})"
    return TfcliError(
        f"{which} cannot be used",
        why=f"{how} {named}, e.g. {examples[reason]}",
        fix=f"{FIXES.get(reason, 'correct the source')}, or raise encode.max_bad if that is expected",
        code=ExitCode.INPUT,
    )
