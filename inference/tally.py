"""What came of the tasks of a job: its summary line and exit code.

In: the outcome of each task. Out: one line of JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

DONE, FAILED, USAGE, STORAGE, STOPPED = 0, 1, 2, 3, 143  # exit codes


@dataclass
class Tally:
    """The outcome of all tasks, printed as the summary line."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)
    is_stopped: bool = False

    def summary(self, *, n_tasks: int, seconds: float) -> str:
        """Return one line of JSON."""
        failed = {name: {"class": type(error).__name__, "message": str(error)} for name, error in self.failed.items()}
        record = {
            "n_tasks": n_tasks,
            "done": self.done,
            "skipped": self.skipped,
            "failed": failed,
            "stopped": self.is_stopped,
            "seconds": round(seconds, 3),
        }
        return json.dumps(record, sort_keys=True)
