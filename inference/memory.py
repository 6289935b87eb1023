"""The most memory that this process has used.

In: nothing. Out: GiB.
"""

from __future__ import annotations

import resource


def peak_memory_gib() -> float:
    """Peak of the resident memory, with the pages of files that were in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
