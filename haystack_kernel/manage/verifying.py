"""Check a report: that nothing was changed in it, that it says what the record says, and that the run opens again.

In: a report, and the storage of its run where it is at hand. Out: one line per check, with what was found.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_kernel.config.connect import connect
from haystack_kernel.config.settings import load_settings
from haystack_kernel.errors import ContractError, HaystackError, InvalidInputError, NotFoundError
from haystack_kernel.knowledge import load_knowledge
from haystack_kernel.schema import Citations, ModelReadings, RunRecord
from haystack_kernel.schema.run import RECORD_FIELDS
from haystack_kernel.store import hide_home, layout
from haystack_kernel.store.files import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from haystack_kernel.ports import Store
    from haystack_kernel.run import Run
    from haystack_kernel.schema import Settings

_MADE_BY = re.compile(r'<meta name="generator" content="HAYSTACK ([^"]*)">')
_CHANGING = {*RECORD_FIELDS["running"], *RECORD_FIELDS["spending"]}  # may change after the report was written


@dataclass(frozen=True)
class CheckLine:
    """One check: whether it passed (None: it could not be made), and what was found."""

    check: str
    ok: bool | None
    found: str


@dataclass(frozen=True)
class Verification:
    """What the checks of a report found.

    Attributes
    ----------
    run_id
        The run that the report is of; empty where it holds no record.
    lines
        One per check, in a fixed order.
    """

    run_id: str
    lines: tuple[CheckLine, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not any(line.ok is False for line in self.lines)


def verify_report(report: str, *, storage: str | None = None, settings: Settings | None = None) -> Verification:
    """Check a report against its own record and files, and against the run folder where it is at hand.

    Parameters
    ----------
    report
        Path or address of the page, or the id of a run.
    storage
        Where run folders are; None looks beside the page, then in the settings' storage.
    settings
        None reads them from the layers and the environment.

    Returns
    -------
    Lines for ``seal`` (no byte was changed since it was written), ``record``, ``page`` (every text, number, table and
    figure equals what the record and the files give), ``files`` (their digests), ``quotes`` (each stands in its
    paper) and ``run`` (the run folder opens and tells the same).

    Raises
    ------
    NotFoundError
        There is no such page.
    InvalidInputError
        The file is no report.

    Examples
    --------
    >>> verify_report("demo-run/runs/run-20260102t030405-abcdef/report.html").ok  # doctest: +SKIP
    True
    """
    from haystack_kernel.report.files import files_of
    from haystack_kernel.report.render import embedded_record, is_sealed

    page, beside = _read(report, storage=storage, settings=settings)
    if 'id="haystack-record"' not in page:
        msg = f"{report} is no report of HAYSTACK: it holds no record. Give the report of a run folder"
        raise InvalidInputError(msg, path=report)
    seal = is_sealed(page)
    told = "no byte was changed since it was written" if seal else "the page was changed after it was written"
    lines = [CheckLine("seal", seal, "the page has none: a version before seals wrote it" if seal is None else told)]
    record = embedded_record(page)
    if record is None:
        lines.append(CheckLine("record", ok=False, found="the record inside the page cannot be read"))
        return Verification("", tuple(lines))
    n_rounds = len(record.rounds)
    lines.append(CheckLine("record", ok=True, found=f"run {record.run_id}, {record.status}, {n_rounds} rounds"))
    try:
        files = files_of(page)
        lines.append(_digests(record, files))
    except ContractError as error:
        files = {}
        lines.append(CheckLine("files", ok=False, found=str(error)))
    run = _open(record, storage=storage or beside, settings=settings)
    store = _store_of(storage or beside, settings)
    lines.append(_same_page(page, record, files, run=run, store=store, is_sealed=seal))
    lines.append(_quotes(files))
    lines.append(_same_run(record, run, store=store))
    return Verification(record.run_id, tuple(lines))


def _read(report: str, *, storage: str | None, settings: Settings | None) -> tuple[str, str | None]:
    """The page, and the storage that it lies in where it lies in a run folder."""
    from haystack_kernel.run import attach

    fs, path = open_filesystem(report)
    if fs.exists(path) and not fs.isdir(path):
        found = re.fullmatch(rf"(.+)/{layout.RUNS}/[^/]+/[^/]+", report if "://" in report else str(Path(path)))
        try:
            return fs.cat_file(path).decode(), found[1] if found else None
        except UnicodeDecodeError as error:
            msg = f"{report} is no page of text; give the report of a run folder"
            raise InvalidInputError(msg, path=report) from error
    if re.fullmatch(r"[a-z][a-z0-9-]{7,44}", report):
        run = attach(report, storage=storage, settings=settings)
        return _store_of(storage, settings).read(run.run_id, layout.REPORT).decode(), storage
    msg = f"there is no report {report}; give the path of a report, or the id of a run"
    raise NotFoundError(msg, path=report)


def _store_of(storage: str | None, settings: Settings | None) -> Store:
    chosen = settings if settings is not None and storage is None else load_settings(storage=storage)
    return connect(chosen).store


def _open(record: RunRecord, *, storage: str | None, settings: Settings | None) -> Run | None:
    from haystack_kernel.run import attach

    try:
        return attach(record.run_id, storage=storage, settings=settings)
    except HaystackError:
        return None


def _digests(record: RunRecord, files: Mapping[str, bytes]) -> CheckLine:
    known = {item.path: item.sha256 for item in record.files}
    wrong = [name for name, data in files.items() if known.get(name, "") != hashlib.sha256(data).hexdigest()]
    if not files:
        return CheckLine("files", ok=None, found="the page holds no tables")
    if wrong and known:
        return CheckLine("files", ok=False, found=f"other than the record's digests: {', '.join(sorted(wrong))}")
    if wrong:
        return CheckLine("files", ok=None, found="the run was not published, so its record has no digests")
    return CheckLine("files", ok=True, found=f"{len(files)} tables have the digests of the record")


def _same_page(
    page: str, record: RunRecord, files: Mapping[str, bytes], *, run: Run | None, store: Store, is_sealed: bool | None
) -> CheckLine:
    """Render the page again from what it holds, and from the cells where they are at hand; compare what both say."""
    from haystack_kernel.explorer import report_part
    from haystack_kernel.report import build_bundle, render_report

    made_by = _MADE_BY.search(page)
    ours = version("haystack-kernel")
    if made_by is None or made_by[1] != ours:
        other = made_by[1] if made_by else "an earlier one"
        return CheckLine("page", ok=None, found=f"written by version {other}; this is {ours}, whose words may differ")
    notebook = run.notebook() if run is not None else None
    cells = None if run is None else report_part(record, store, knowledge=load_knowledge(load_settings().knowledge))
    try:
        expected = hide_home(render_report(replace(build_bundle(record, files, notebook=notebook), explorer=cells)))
    except (HaystackError, ValueError, KeyError) as error:
        return CheckLine("page", ok=False, found=f"cannot be made from the files that it holds ({error})")
    without = [name for name, made in (("notebook", notebook), ("explorer", cells)) if made is None]
    return _compared(page, expected, without=without, is_sealed=is_sealed)


def _compared(page: str, expected: str, *, without: Sequence[str], is_sealed: bool | None) -> CheckLine:
    """What the page says otherwise than the one that was rendered again ``without`` some of its sections."""
    from haystack_kernel.report.reading import FIGURE, differences

    absent = {name for name in ("notebook", "explorer") if f'<section id="{name}">' not in page}
    # a report may be rendered without what is there
    found = differences(page, expected, ignored=(*without, *absent))
    if not found:
        told = "every text, number, table and figure equals what the record gives"
        left = [name for name in without if name not in absent]
        rest = f"; not compared, because the run folder is needed for it: {', '.join(left)}" if left else ""
        return CheckLine("page", ok=True, found=f"{told}{rest}")
    drawn_elsewhere = [name for name, told in found.items() if told.startswith(f"shows '{FIGURE}")]
    if is_sealed and drawn_elsewhere == [*found]:
        where = ", ".join(drawn_elsewhere)
        return CheckLine("page", ok=None, found=f"figures are drawn otherwise on this machine ({where}); else equal")
    return CheckLine("page", ok=False, found="; ".join(f"section '{name}' {told}" for name, told in found.items()))


def _quotes(files: Mapping[str, bytes]) -> CheckLine:
    if layout.CITATIONS not in files:
        return CheckLine("quotes", ok=None, found="the page holds no papers")
    try:
        citations = Citations.model_validate_json(files[layout.CITATIONS]).citations
        if layout.READINGS in files:
            citations += ModelReadings.model_validate_json(files[layout.READINGS]).citations
    except ValueError as error:
        return CheckLine("quotes", ok=False, found=f"the papers cannot be read ({error})")
    wrong, n_quotes = [], 0
    for item in citations:
        for quote in item.quotes:
            n_quotes += 1
            text = item.paper.title if quote.where == "title" else item.paper.abstract
            if text[quote.start : quote.end] != quote.quote:
                wrong.append(f"{item.paper.id} does not say {quote.quote[:60]!r}")
    if wrong:
        return CheckLine("quotes", ok=False, found="; ".join(wrong))
    return CheckLine("quotes", ok=True, found=f"{n_quotes} quotations stand in their papers")


def _same_run(record: RunRecord, run: Run | None, *, store: Store) -> CheckLine:
    if run is None:
        found = "its run folder is not at hand (--storage says where it is)"
        return CheckLine("run", ok=None, found=found)
    ours, theirs = record.model_dump(mode="json"), run.record.model_dump(mode="json")
    changed = [name for name in theirs if name not in _CHANGING and ours.get(name) != theirs[name]]
    if changed:
        found = f"{run.folder} holds another record: {', '.join(changed)}; `haystack report` renders it again"
        return CheckLine("run", ok=False, found=found)
    wrong = []
    for item in run.record.files:
        try:
            if hashlib.sha256(store.read(run.run_id, item.path)).hexdigest() != item.sha256:
                wrong.append(f"{item.path} was changed")
        except NotFoundError:
            wrong.append(f"{item.path} is missing")
    if wrong:
        return CheckLine("run", ok=False, found=f"{run.folder}: {', '.join(wrong)}")
    return CheckLine("run", ok=True, found=f"{run.folder} opens, with {len(run.record.files)} files as recorded")
