"""When a run of encoding has seen too many pictures that cannot be used."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from stages.core.errors import ExitCode, TfcliError
from stages.sources.text_rules import printable


class Failures:
    """Stops the run where too many pictures fail: a wrong folder or a missing codec must not be found at the end.

    The limit is max_bad of the pictures seen so far, of the first 100 where fewer were seen, and of the last `window`: a
    disk that goes away after millions of good pictures is found as well.
    """

    def __init__(self, max_bad: float, window: int) -> None:
        self.max_bad = max_bad
        self.bad = self.seen = 0
        self.reasons: Counter[str] = Counter()
        self._recent: deque[int] = deque(maxlen=window)
        self._recent_bad = 0

    def saw_record(self, record: dict[str, Any]) -> None:
        """The same of a finished shard."""
        self.saw(record["good"], [error for error in record["errors"] if "row" in error])

    def saw(self, good: int, errors: list[dict[str, Any]]) -> None:
        """So many more pictures, in the order of the source. Raises TfcliError (INPUT) where too many failed."""
        self.bad += len(errors)
        self.seen += good + len(errors)
        self.reasons.update(error["reason"] for error in errors)
        if good + len(errors) == 1:
            if len(self._recent) == self._recent.maxlen:
                self._recent_bad -= self._recent[0]
            self._recent.append(len(errors))
            self._recent_bad += len(errors)
        if not errors:
            return
        reason, count = self.reasons.most_common(1)[0]
        if self.bad > self.max_bad * max(100, self.seen):
            raise self._too_many(f"{self.bad} of the first {self.seen}", f"mostly {reason} ({count})", errors[-1])
        window = self._recent.maxlen or 0
        if len(self._recent) == window and self._recent_bad > self.max_bad * window:
            raise self._too_many(f"{self._recent_bad} of the last {window}", f"now {errors[-1]['reason']}", errors[-1])

    @staticmethod
    def _too_many(which: str, mostly: str, example: dict[str, Any]) -> TfcliError:
        return TfcliError(
            f"{which} pictures cannot be used",
            why=f"{mostly}, e.g. {printable(example['path'])}: {example['message']}",
            fix="mend the source, or raise encode.max_bad if that is expected",
            code=ExitCode.INPUT,
        )
