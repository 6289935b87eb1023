"""One page over all runs of a storage: searchable, offline, with links to the reports.

In: a storage. Out: gallery.html in it, or another file.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import StorageError
from haystack_kernel.manage.listing import list_summaries
from haystack_kernel.report import render_page
from haystack_kernel.report.html import Html, bar, escape, paragraph, table
from haystack_kernel.store import hide_home, layout
from haystack_kernel.store.files import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from haystack_kernel.schema import RunSummary, Settings

_COLUMNS = ("question", "score", "state", "cell type", "treatment", "engine", "rounds", "begun (UTC)", "run")
_HOW = "Type in the field to search; select a heading to sort. A question links to its report."


@dataclass(frozen=True)
class Gallery:
    """Where a gallery was written, and what it shows."""

    address: str
    n_runs: int
    n_reports: int


def write_gallery(
    *, storage: str | None = None, to: str | None = None, settings: Settings | None = None, now: datetime | None = None
) -> Gallery:
    """Write one searchable page over all runs of a storage.

    Parameters
    ----------
    storage
        Where the run folders are; None takes the settings'.
    to
        Where to write the page; None: ``gallery.html`` in the storage. Its links lead from there to the run folders.
    settings
        None reads them from the layers and the environment, with ``storage`` over them.
    now
        The time that the page names; None: the present.

    Returns
    -------
    Where it is, and how many runs and reports it shows.

    Raises
    ------
    StorageError
        The page cannot be written.
    NotFoundError
        The storage does not exist.

    Examples
    --------
    >>> write_gallery(storage="demo-run").n_runs  # doctest: +SKIP
    1
    """
    root = (settings if settings is not None and storage is None else load_settings(storage=storage)).storage
    runs = list_summaries(storage=root, settings=settings)
    target = to or f"{root.rstrip('/')}/{layout.GALLERY}"
    body = gallery_table(runs, prefix=_way(target, root))
    when = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    page = render_page(title="Questions and predictions", kicker=f"HAYSTACK runs of a storage, as of {when}", body=body)
    fs, path = open_filesystem(target)
    try:
        fs.pipe_file(path, hide_home(page).encode())
    except OSError as error:
        msg = f"the gallery cannot be written to {target} ({error}); --to names another file"
        raise StorageError(msg, path=target) from error
    return Gallery(target, len(runs), sum(item.status == "done" for item in runs))


def gallery_table(runs: Sequence[RunSummary], *, prefix: str = "") -> Html:
    """Return the runs as a table that the script of the page sorts and filters; ``prefix`` leads to the storage."""
    if not runs:
        return Html(paragraph('This storage holds no runs yet. Ask a question with `haystack run "…"`.'))
    rows = []
    for item in runs:
        name: Html | str = item.question
        if item.status == "done":
            address = quote(f"{prefix}{layout.RUNS}/{item.run_id}/{layout.REPORT}")
            name = Html(f'<a href="{escape(address)}">{escape(item.question)}</a>')
        score = Html("") if math.isnan(item.score) else bar(item.score)
        begun = f"{item.created_at:%Y-%m-%d %H:%M}"
        known = (item.cell_type, item.treatment, item.engine, item.rounds, begun, item.run_id)
        rows.append((name, score, item.status, *known))
    caption = f"{len(runs):,} runs, newest first"
    return Html(paragraph(_HOW, kind="small") + table(_COLUMNS, rows, caption=caption, kind="sortable gallery"))


def _way(target: str, root: str) -> str:
    """How a link of ``target`` begins to reach the storage; the full address where no relative way leads there."""
    if "://" in target or "://" in root:
        inside = target.removeprefix(f"{root.rstrip('/')}/")
        if inside != target:
            return "../" * inside.count("/")
        return f"{root.rstrip('/')}/"
    way = Path(os.path.relpath(root, start=Path(target).absolute().parent)).as_posix()
    return "" if way == "." else f"{way}/"
