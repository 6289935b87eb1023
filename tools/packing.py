"""Write tables of the package as compressed text whose bytes depend on nothing but their content.

In: comment lines, columns and rows. Out: a ``.tsv.gz`` file without a time or a file name in it.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def write_packed(path: Path, *, comments: Iterable[str], columns: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Write the table and return the size of the file in bytes."""
    lines = [*comments, "\t".join(columns), *("\t".join(row) for row in rows)]
    wrong = [line for line in lines if line.count("\t") not in (0, len(columns) - 1) or "\n" in line]
    if wrong:
        message = f"{path.name}: {wrong[0]!r} has a tab or a line break within a cell"
        raise ValueError(message)
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0))
    return path.stat().st_size
