"""The most memory that this process has used.

In: nothing. Out: GiB.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")  # Linux alone has it
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def peak_memory_gib() -> float:
    """The most memory that this process has held at once, with the pages of files in it, GiB.

    What the operating system counts for a process begins with the peak of the one that started it, which may be a
    notebook of many gigabytes; what it counts for the program does not.
    """
    found = _PEAK.search(_STATUS.read_text(encoding="ascii", errors="replace")) if _STATUS.exists() else None
    n_kib = int(found.group(1)) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return n_kib / 2**20
